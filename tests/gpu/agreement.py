"""The same numbers on both devices, in both dtypes, with a shared prompt and without."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from learner.training.batch import TrainGroup, micro_batches
from learner.training.loss import Denominators
from learner.training.objectives import GrpoObjective, Pass
from learner.training.step_sums import StepSums
from tests.gpu.section import Figures, Section, figure
from tests.gpu.subjects import TINY, configured, repeated

ATTENTION = "scaled_dot_product"


def agreement(section: Section) -> None:
    """Log-probabilities, loss and gradient norm of one batch, against float32 on the CPU."""
    torch.backends.cudnn.allow_tf32 = False  # as the engine has it in float32
    groups = TINY.groups()
    exact = computed(section, groups, device="cpu", dtype=torch.float32)
    rough = computed(section, groups, device="cpu", dtype=torch.bfloat16)
    compared = {"float32": computed(section, groups, device=section.device, dtype=torch.float32)}
    compared["bfloat16"] = computed(section, groups, device=section.device, dtype=torch.bfloat16)
    compared["one prompt per sample"] = computed(
        section, repeated(groups), device=section.device, dtype=torch.float32
    )
    limits = {"float32": 1e-4, "one prompt per sample": 1e-4, "bfloat16": 2 * difference(rough, exact)}
    figures: Figures = {}
    for name, found in compared.items():
        key = name.replace(" ", "_")
        figures[f"logprobs_{key}"] = figure(
            f"log-probabilities, {name}: largest difference",
            difference(found, exact),
            at_most=round(limits[name], 6),
        )
        for what in ("loss", "grad_norm"):
            figures[f"{what}_{key}"] = figure(
                f"{what.replace('grad_norm', 'gradient norm')}, {name}: relative difference",
                abs(found[what] / exact[what] - 1),
            )
    conditions = (
        f"{TINY.describe()}; differences to float32 on the CPU; the target of bfloat16 is twice its difference on "
        "the CPU"
    )
    chosen = {name: found["attention"] for name, found in compared.items()}
    section.save("agreement", conditions, figures, attention=chosen)


def difference(found: dict[str, Any], exact: dict[str, Any]) -> float:
    """Largest, of the log-probabilities."""
    pairs = itertools.zip_longest(found["logprobs"], exact["logprobs"])
    return float(max((a - b).abs().max() for a, b in pairs))


def computed(section: Section, groups: Sequence[TrainGroup], *, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """One forward and backward of a batch of groups."""
    policy = load_policy(str(section.tiny_path), dtype=dtype).to(device).train()
    objective = GrpoObjective(configured().learner.objective, temperature=1.0)
    batches = micro_batches(groups, max_rows=8, max_tokens=4096, pad_token_id=0, device=device)
    num_rows = sum(len(b.advantages) for b in batches)
    num_tokens = sum(b.tokens.num_tokens for b in batches)
    denominators = Denominators(num_sequences=num_rows, num_tokens=num_tokens, max_tokens=TINY.completion_tokens)
    rows, loss = list[torch.Tensor](), 0.0
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as seen:
        for batch in batches:
            logprobs, entropy = policy(batch.tokens)
            part = objective(
                Pass(batch=batch, old=batch.rollout_logprobs),
                logprobs,
                entropy,
                denominators=denominators,
                sums=StepSums(),
            )
            part.backward()
            rows += list(logprobs.detach().cpu())
            loss += float(part.detach())
    return {"logprobs": rows, "loss": loss, "grad_norm": norm_of(policy), "attention": attention_names(seen)}


def norm_of(policy: Qwen2_5OmniPolicy) -> float:
    """Of all gradients, in float32."""
    return float(torch.nn.utils.get_total_norm([p.grad.float() for p in policy.parameters() if p.grad is not None]))


def attention_names(seen: Any) -> list[str]:
    """The kernels that attention was given to, by the names of torch's operators."""
    names = {event.key for event in seen.key_averages() if ATTENTION in event.key}
    return sorted(name for name in names if name != f"aten::{ATTENTION}_attention" and "backward" not in name)
