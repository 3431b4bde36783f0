"""What DeepSpeed and our code cost over plain PyTorch, what stages and ranks do, how long a checkpoint holds up.

    python -m tests.benchmarks.learner [--check] [--minutes M] [--plot FILE.png]

Prints JSON. `engine_over_bare` is the rate, in tokens per second, of `LearnerEngine` over that of a loop of plain
PyTorch on the same micro-batches with the same loss, alternated step by step in one process; medians over pairs.
`stages` has seconds and memory of a step at world sizes 1 and 2. `stall_over_copy` is how long a rank stands still
for a checkpoint, over the time that one copy of its tensors in memory takes. `--check` exits 1 where a target is
missed.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from common.config.learner import LearnerConfig, OptimizerConfig
from common.models.qwen2_5_omni.policy import load_policy
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from learner.checkpoints import checkpoint
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from learner.training.objectives import GrpoObjective, Objective, Pass, SftObjective
from learner.training.step_sums import StepSums
from learner.zero.deepspeed_facade import decay_groups
from tests.benchmarks.part import Part, boxed, parser_of
from tests.support.ranks import on_ranks, recorded, share_of, start, state_of

PAIRS, WARM_UP = 7, 2
MINUTES = 25.0
STAGES: tuple[Any, ...] = (0, 1, 2, 3)
CLIPS = ["av-8fps-odd-frames", "audio-only", "text-only", "video-only-one-frame"]
LARGE = {"hidden_size": 512, "num_layers": 6, "groups": 4, "rows": 16}
SIZES = {
    "large": LARGE | {"max_rows": 64},
    "large, quarters": LARGE | {"max_rows": 16},
    "toy": {"hidden_size": 128, "num_layers": 2, "groups": 2, "rows": 8, "max_rows": 16},
}
"""The large one's steps last half a second or more, its micro-batches as full as the default budget of tokens
allows. In quarters they show what a micro-batch costs: gradients are reduced once for each. The toy's steps are
mostly overhead, on either side."""
TARGETS = {0: 0.95, 1: 0.95, 2: 0.95, 3: 0.90}
TARGET_STALL = 2.0


def config(stage: Any, *, max_rows: int = 16) -> LearnerConfig:
    """A step without a reference: both sides compute one policy."""
    return LearnerConfig(
        zero_stage=stage,
        beta=0.0,
        optimizer=OptimizerConfig(lr=1e-5, schedule="constant"),
        max_rows_per_micro_batch=max_rows,
    )


class Bare:
    """A loop of plain PyTorch, as one writes it without any of this."""

    def __init__(self, model_path: str, settings: LearnerConfig) -> None:
        self.policy = load_policy(model_path, dtype=torch.float32).train()
        optimizer = settings.optimizer
        self.optimizer = torch.optim.AdamW(
            decay_groups(self.policy, weight_decay=0.0), lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2)
        )
        self._max_norm = optimizer.max_grad_norm

    def step(self, passes: Sequence[Pass], objective: Objective, denominators: Any) -> None:
        """Forward and backward of each pass, clipping, one update."""
        for made in passes:
            logprobs, entropy = self.policy(made.batch.tokens, temperature=objective.temperature)
            objective(made, logprobs, entropy, denominators=denominators, sums=StepSums()).backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self._max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def against_bare(model_path: str, stage: Any, groups: list[TrainGroup], max_rows: int) -> dict[str, Any]:
    """Seconds of a step on both sides, GRPO and supervised."""
    settings = config(stage, max_rows=max_rows)
    engine, bare = start(model_path, settings), Bare(model_path, settings)
    batches, denominators = engine._share(groups)
    passes = [Pass(batch=batch) for batch in batches]
    grpo = GrpoObjective(engine.config.objective, temperature=engine.temperature)
    return {
        "grpo": _alternated(lambda: engine.train_step(groups), lambda: bare.step(passes, grpo, denominators)),
        "sft": _alternated(
            lambda: engine.sft_step(groups), lambda: bare.step(passes, SftObjective(), denominators)
        ),
        "num_tokens": sum(batch.tokens.num_tokens for batch in batches),
        "num_micro_batches": len(batches),
    }


def _alternated(ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, float]:
    pairs: list[tuple[float, float]] = []
    for index in range(WARM_UP + PAIRS):
        # whoever comes second finds warmer caches: they take turns
        first, second = (ours, theirs) if index % 2 else (theirs, ours)
        seconds = _seconds(first), _seconds(second)
        pairs.append(seconds if index % 2 else seconds[::-1])
    kept = pairs[WARM_UP:]
    return {
        "engine_s": statistics.median(a for a, _ in kept),
        "bare_s": statistics.median(b for _, b in kept),
        "engine_over_bare": statistics.median(b / a for a, b in kept),
    }


def _seconds(work: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def step_and_memory(model_path: str, stage: Any, groups: list[TrainGroup]) -> dict[str, float]:
    """Of one rank, in a process of its own."""
    process = psutil.Process()
    gc.collect()
    before = process.memory_full_info().uss
    engine = start(model_path, config(stage))
    share = share_of(groups, engine)
    seconds = [_seconds(lambda: engine.train_step(share)) for _ in range(WARM_UP + PAIRS)]
    return {
        "step_s": statistics.median(seconds[WARM_UP:]),
        "memory_bytes": float(process.memory_full_info().uss - before),
    }


def stall(model_path: str, folder: str, groups: list[TrainGroup]) -> dict[str, float]:
    """Seconds for which a rank stands still, and those of one copy of what it keeps."""
    engine = start(model_path, config(2))
    engine.train_step(share_of(groups, engine))
    held, copied = list[float](), list[float]()
    for step in range(1, WARM_UP + PAIRS + 1):
        state = state_of(engine)
        copied.append(_seconds(lambda kept=state: [tensor.clone() for tensor in kept.values()]))
        num_bytes = sum(tensor.nbytes for tensor in state.values())
        del state
        held.append(_seconds(lambda number=step: _begin_save(engine, Path(folder), number)))
        engine.checkpoints.writer.wait()
    return {
        "stall_s": statistics.median(held[WARM_UP:]),
        "copy_s": statistics.median(copied[WARM_UP:]),
        "state_bytes": float(num_bytes),
    }


def _begin_save(engine: LearnerEngine, folder: Path, step: int) -> None:
    target = folder / f"step_{step:06d}"
    engine.checkpoints.begin_save(checkpoint.begin(target), target, state="{}\n", num_updates=1)


def measure(part: Part) -> dict[str, Any]:
    """All of it."""
    result: dict[str, Any] = {"against_bare": {}, "stages": []}
    for name, size in SIZES.items():
        with part.measurement(f"{name}: model"):
            shape = {key: size[key] for key in ("hidden_size", "num_layers")}
            model = str(build_tiny_checkpoint(part.folder / name, seed=1, **shape))
            groups = recorded(model, (CLIPS * size["groups"])[: size["groups"]], size=size["rows"])
        compared = result["against_bare"][name] = {}
        for stage in STAGES:
            with part.measurement(f"{name}: stage {stage} against plain PyTorch"):
                compared[f"stage {stage}"] = on_ranks(1, against_bare, model, stage, groups, size["max_rows"])[0]
        if name == "large":
            result["stages"] = list(each_stage(model, groups, part))
            with part.measurement("standing still for a checkpoint"):
                held = on_ranks(1, stall, model, str(part.folder / "run" / "checkpoints"), groups)[0]
            result["checkpoint"] = held | {"stall_over_copy": held["stall_s"] / held["copy_s"]}
    return result


def each_stage(model: str, groups: list[TrainGroup], part: Part) -> Iterator[dict[str, float]]:
    """Seconds and memory of a step; of several ranks the most."""
    for num_ranks in (1, 2):
        for stage in STAGES:
            with part.measurement(f"a step at stage {stage}, {num_ranks} ranks"):
                found = on_ranks(num_ranks, step_and_memory, model, stage, groups)
            largest = {key: max(rank[key] for rank in found) for key in found[0]}
            yield {"num_ranks": num_ranks, "zero_stage": stage, **largest}


def misses(result: dict[str, Any]) -> list[str]:
    """What lies under its target."""
    found = [
        f"{kind} at stage {stage}: {value:.3f} < {target}"
        for stage, target in TARGETS.items()
        for kind in ("grpo", "sft")
        if (value := result["against_bare"]["large"][f"stage {stage}"][kind]["engine_over_bare"]) < target
    ]
    if result["checkpoint"]["stall_over_copy"] > TARGET_STALL:
        found.append(f"checkpoint: {result['checkpoint']['stall_over_copy']:.2f} copies > {TARGET_STALL}")
    return found


def plot(stages: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory of a step over ZeRO stages, a bar per number of ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axes, key, unit, scale in zip(
        figure.subplots(1, 2),
        ("step_s", "memory_bytes"),
        ("step, s", "memory of a rank, MiB"),
        (1, 2**20),
        strict=True,
    ):
        for offset, num_ranks in ((-0.2, 1), (0.2, 2)):
            line = [s for s in stages if s["num_ranks"] == num_ranks]
            axes.bar(
                [s["zero_stage"] + offset for s in line], [s[key] / scale for s in line], 0.4, label=f"{num_ranks}"
            )
        axes.set(xlabel="ZeRO stage", ylabel=unit, xticks=[0, 1, 2, 3])
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="ranks", loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Measures, prints, and checks when asked to."""
    parser = parser_of(__doc__, minutes=MINUTES)
    parser.add_argument("--plot", type=Path, help="a picture of seconds and memory by stage")
    arguments = parser.parse_args()
    with boxed("learner", minutes=arguments.minutes) as part:
        result = measure(part)
    if arguments.plot:
        plot(result["stages"], arguments.plot)
    result["misses"] = misses(result)
    print(json.dumps(result, indent=1))
    return 1 if arguments.check and result["misses"] else 0


if __name__ == "__main__":
    sys.exit(main())
