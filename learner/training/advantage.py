"""Group-relative advantages."""

from jaxtyping import Float
from torch import Tensor

STD_EPS = 1e-4
"""Added to the group's standard deviation, as in the paper's code."""


def group_advantages(rewards: Float[Tensor, "groups size"]) -> Float[Tensor, "groups size"]:
    """(r - mean) / (std + eps) within each group, float32; std with size - 1 (DeepSeekMath, section 4.1.2).

    Computed in float64. A group of equal rewards gets exactly 0.
    """
    exact = rewards.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    scaled = centred / (exact.std(dim=1, keepdim=True) + STD_EPS)
    # the rounded mean may differ from every member: the quotient would then be noise
    is_equal = (exact == exact[:, :1]).all(dim=1, keepdim=True)
    return scaled.masked_fill(is_equal, 0.0).float()
