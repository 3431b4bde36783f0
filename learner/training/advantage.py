"""Group-relative advantages."""

from jaxtyping import Float
from torch import Tensor

STD_EPS = 1e-4
"""Added to the group's standard deviation, as in the paper's code."""


def group_advantages(rewards: Float[Tensor, "groups size"]) -> Float[Tensor, "groups size"]:
    """(r - mean) / (std + eps) within each group; std with size - 1 (DeepSeekMath, section 4.1.2).

    A group of equal rewards gets exactly 0: in floating point its mean may differ from every member, and
    the quotient would then be noise.

    Args:
        rewards: any float dtype; computed in float64.

    Returns:
        Same shape, float32.
    """
    exact = rewards.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    scaled = centred / (exact.std(dim=1, keepdim=True) + STD_EPS)
    is_equal = (exact == exact[:, :1]).all(dim=1, keepdim=True)
    return scaled.masked_fill(is_equal, 0.0).float()
