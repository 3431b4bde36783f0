"""A step of the learner: seconds, rate, memory beside the plan, and where the time goes."""

import statistics
from collections import defaultdict
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile

from common.config.run import OmniConfig
from deploy.checks.memory_plan import model_sizes, rank_memory
from learner.engine import LearnerEngine
from tests.gpu.flops import operations, peak_of, stacks_of, works_of
from tests.gpu.section import Figures, Section, figure
from tests.gpu.subjects import Subject, configured, engine_of

FULL = (
    "learner.lora=null",
    "learner.freeze=['thinker.visual.*', 'thinker.audio_tower.*']",
    "learner.beta=0",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "shipped": (),
    "no-checkpointing": ("learner.gradient_checkpointing=false",),
    "full": FULL,
    "full-zero2": (*FULL, "learner.zero_stage=2"),
    "full-zero2-offload": (*FULL, "learner.zero_stage=2", "learner.offload=optimizer"),
}
NUM_KERNELS = 25
SYNCS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


def config_of(subject: Subject, *overrides: str) -> OmniConfig:
    """The shipped configuration, with lengths that are the subject's own, so that the plan speaks of them."""
    return configured(
        f"rollout.max_model_len={subject.prompt_tokens + subject.completion_tokens}",
        f"rollout.sampling.max_tokens={subject.completion_tokens}",
        f"rollout.group_size={subject.group_size}",
        f"learner.groups_per_step={subject.num_groups}",
        *overrides,
    )


def variant(section: Section, name: str) -> None:
    """Several steps under one of `VARIANTS`; one whose plan is larger than the card is not tried."""
    subject, overrides = section.subject, VARIANTS[name]
    config = config_of(subject, *overrides)
    plan = rank_memory(config, model_sizes(section.model_path))
    settings = ", ".join(overrides) or "the shipped one-GPU configuration"
    conditions = f"{subject.describe()}; {settings}"
    figures: Figures = {"planned_bytes": figure("memory of the rank, planned", plan.device_bytes, "B")}
    if section.is_cuda and plan.device_bytes > (room := torch.cuda.get_device_properties(0).total_memory):
        figures["card_bytes"] = figure("memory of the card", room, "B")
        section.save("step", f"{conditions}; not run: the planned memory is larger than that of the card", figures)
        return
    with section.peak() as memory:
        engine = engine_of(config, section.model_path)
        groups = subject.groups()
        seconds, phases = list[float](), defaultdict[str, list[float]](list)
        for _ in range(1 + subject.num_steps):
            seconds.append(section.seconds(lambda: _remember(engine.train_step(groups), phases)))
    step_s = statistics.median(seconds[1:])
    figures |= {
        "step_s": figure("time of a step, median", step_s, "s"),
        "first_step_s": figure("time of the first step", seconds[0], "s"),
        **{
            f"{phase}_s": figure(f"phase `{phase}`", statistics.median(kept[1:]), "s")
            for phase, kept in phases.items()
        },
        "tokens_per_s": figure("completion tokens per second", _num_completed(subject) / step_s, "tokens/s"),
        "passed_tokens_per_s": figure(
            "processed tokens per second, each prompt counted once", _num_passed(subject) / step_s, "tokens/s"
        ),
        "operations": figure(
            "floating-point operations of a step, calculated", _operations(engine, config, subject)
        ),
    }
    if section.is_cuda:
        figures["peak_bytes"] = figure("memory of the rank, peak allocated", memory["peak"], "B")
        figures["peak_over_planned"] = figure("peak allocated / planned", memory["peak"] / plan.device_bytes)
    if peak := peak_of(torch.cuda.get_device_name() if section.is_cuda else ""):
        share = _operations(engine, config, subject) / step_s / peak
        figures["mfu"] = figure("operations per second / peak of the card (MFU)", share)
    section.save("step", conditions, figures, plan={k: v for k, v in plan.device.items() if v})
    if name == "shipped":
        _profiled(section, engine, f"{subject.describe(2)}; {settings}")
    engine.close()


def _remember(metrics: dict[str, float], phases: dict[str, list[float]]) -> None:
    assert not metrics["learner/is_skipped"], "a step must be taken"
    for key, value in metrics.items():
        if key.startswith("seconds/"):
            phases[key.removeprefix("seconds/")].append(value)


def _num_completed(subject: Subject) -> int:
    return subject.num_groups * subject.group_size * subject.completion_tokens


def _num_passed(subject: Subject) -> int:
    return _num_completed(subject) + subject.num_groups * subject.prompt_tokens


def _operations(engine: LearnerEngine, config: OmniConfig, subject: Subject) -> float:
    """Of the policy's forward and backward, and of the reference's forward where there is one."""
    stacks = stacks_of(cast(Any, engine)._module.thinker)
    works = works_of(subject, is_shared=True, has_media=True)
    own = 2 if config.learner.lora else 3
    # towers train in none of the variants: their features are needed once
    passes = {"decoder": own, "head": own, "vision": 1, "audio": 1}
    total = sum(operations(stacks, works, passes=passes).values())
    if config.learner.beta > 0:
        once = operations(stacks, works, passes=dict.fromkeys(stacks, 1))
        total += once["decoder"] + once["head"]
    return total * subject.num_groups


def _profiled(section: Section, engine: LearnerEngine, conditions: str) -> None:
    """One more step, by kernel."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if section.is_cuda else [])
    groups = section.subject.groups(num=2)
    with profile(activities=activities) as seen:
        wall_s = section.seconds(lambda: engine.train_step(groups))
    events = cast(list[Any], list(seen.key_averages()))
    counts = {event.key: event.count for event in events if event.key in SYNCS or "scaled_dot_product" in event.key}
    busy = [(_device_us(e), e.key, e.count) for e in events if _is_kernel(e)]
    kernels = [{"name": key[:90], "ms": us / 1e3, "calls": n} for us, key, n in sorted(busy, reverse=True)]
    device_s = sum(us for us, _, _ in busy) / 1e6
    figures: Figures = {
        "wall_s": figure("time of a profiled step of two groups", wall_s, "s"),
        "device_s": figure("of this, kernels", device_s, "s"),
        "waits": figure(
            "number of times that the host waited for a value from the device",
            counts.get("aten::_local_scalar_dense", 0),
        ),
    }
    section.save("profile", conditions, figures, kernels=kernels[:NUM_KERNELS], calls=counts)


def _device_us(event: Any) -> float:
    return float(getattr(event, "self_device_time_total", 0.0))


def _is_kernel(event: Any) -> bool:
    return "CUDA" in str(event.device_type) and _device_us(event) > 0
