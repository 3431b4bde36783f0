"""The noise that a rehearsal mixes into weights, by name and nonce, in the ranks and in engines."""

import math

import blake3
import torch
from torch import Tensor

MIN_PERTURBATION_RMS = 1e-2
"""The least root mean square, by which a rehearsal moves tensors of zeros too."""


def perturbed(name: str, parameter: Tensor, *, scale: float, nonce: int) -> Tensor:
    """(w + n) / sqrt(1 + scale^2), n Gaussian of `scale` times w's root mean square; the same in every process."""
    # of unchanged size: larger logits would have larger rounding errors, which could hide a stale tensor
    seed = int.from_bytes(blake3.blake3(f"{name}:{nonce}".encode()).digest(length=7), "little")
    generator = torch.Generator().manual_seed(seed)
    rms = float(parameter.detach().double().square().mean().sqrt())
    size = scale * max(rms, MIN_PERTURBATION_RMS) if math.isfinite(rms) else scale
    # vLLM and DeepSpeed may change the defaults
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu") * size
    mixed = (parameter.detach().float().cpu() + noise) / math.sqrt(1 + scale**2)
    return mixed.to(parameter.device, parameter.dtype)
