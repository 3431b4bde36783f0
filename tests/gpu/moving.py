"""What leaves the device: a publish's sending side, and the stall of a checkpoint."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from common.shared_memory import Segment
from learner.checkpoints import checkpoint
from learner.engine import LearnerEngine
from tests.gpu.section import Figures, Section, figure
from tests.gpu.step import config_of
from tests.gpu.subjects import engine_of

GOAL_COPIES, GOAL_STALL = 2.0, 2.0
THREADS = (1, 2, 4, 8)


def publish(section: Section) -> None:
    """Gathering and merging, copying into shared memory, digests, and all of it, against one pinned copy."""
    engine = engine_of(config_of(section.subject), section.model_path)
    sender, source = engine.sender, engine.source
    buckets = sender.plan.buckets
    num_bytes = sum(source.num_bytes(name) for name in sender.plan.names)
    segment = Segment(Path(sender.open()[0]))
    owned = sender._segments[0]  # pyright: ignore[reportPrivateUsage]
    spent = {"gather": 0.0, "copy": 0.0, "digest": 0.0}
    for bucket in buckets:
        with source.whole(bucket) as tensors:
            spent["copy"] += section.seconds(lambda t=tensors: owned.put(t))
        spent["digest"] += section.seconds(owned.manifest)
        spent["gather"] += section.seconds(lambda b=bucket: _whole(engine, b))
    send_s = min(section.seconds(lambda: [sender.send_bucket(b) for b in range(len(buckets))]) for _ in range(2))
    pinned_s = min(section.seconds(lambda: _pinned(section, engine, owned.num_bytes)) for _ in range(2))
    figures: Figures = {
        "num_bytes": figure("size of the published weights", num_bytes, "B"),
        "send_s": figure("time to send all buckets", send_s, "s"),
        **{f"{phase}_s": figure(f"phase `{phase}`", seconds, "s") for phase, seconds in spent.items()},
        "pinned_s": figure("time of one copy of the same tensors to pinned memory", pinned_s, "s"),
        "send_gb_per_s": figure("throughput of sending", num_bytes / send_s / 1e9, "GB/s"),
        "pinned_gb_per_s": figure("throughput of the pinned copy", num_bytes / pinned_s / 1e9, "GB/s"),
        "digest_gb_per_s": figure("throughput of the digests", num_bytes / spent["digest"] / 1e9, "GB/s"),
        "send_over_pinned": figure("time, sending / pinned copy", send_s / pinned_s, at_most=GOAL_COPIES),
    }
    before = torch.get_num_threads()
    for num in THREADS:
        torch.set_num_threads(num)
        rate = _filled(owned) / min(section.seconds(owned.manifest) for _ in range(3)) / 1e9
        figures[f"digest_{num}_gb_per_s"] = figure(
            f"throughput of the digests of a bucket, threads: {num}", rate, "GB/s"
        )
    torch.set_num_threads(before)
    section.save("publish", f"{section.subject.name}, adapters merged, {len(buckets)} buckets", figures)
    segment.close()
    engine.close()


def _whole(engine: LearnerEngine, bucket: Any) -> None:
    with engine.source.whole(bucket):
        pass


def _pinned(section: Section, engine: LearnerEngine, num_bytes: int) -> None:
    """Bucket by bucket, waiting for each: what a segment allows at best."""
    staging = _staging(section, num_bytes)
    for bucket in engine.sender.plan.buckets:
        offset = 0
        for name in bucket:
            flat = engine.source.parameters[name].detach().reshape(-1).view(torch.uint8)
            staging[offset : offset + len(flat)].copy_(flat, non_blocking=True)
            offset += len(flat)
        section.synchronize()


_STAGING: dict[int, torch.Tensor] = {}


def _staging(section: Section, num_bytes: int) -> torch.Tensor:
    if num_bytes not in _STAGING:
        _STAGING[num_bytes] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=section.is_cuda)
    return _STAGING[num_bytes]


def _filled(segment: Segment) -> int:
    return sum(tensor.nbytes for tensor in segment.read().values())


def stall(section: Section) -> None:
    """How long a rank stands still for a checkpoint, against one copy of what it keeps to pinned memory."""
    engine = engine_of(config_of(section.subject), section.model_path)
    engine.train_step(section.subject.groups(num=1))
    tensors = [p.detach() for p in engine.source.parameters.values()]
    num_bytes = sum(t.nbytes for t in tensors)
    largest = max(t.nbytes for t in tensors)

    def pinned() -> None:
        staging = _staging(section, largest)
        for tensor in tensors:
            flat = tensor.reshape(-1).view(torch.uint8)
            staging[: len(flat)].copy_(flat, non_blocking=True)

    pinned()
    pinned_s = section.seconds(pinned)
    with TemporaryDirectory() as folder:
        held, written_s, figures = list[float](), 0.0, Figures()
        for number in (1, 2):
            target = Path(folder) / "checkpoints" / f"step_{number:06d}"
            aside = checkpoint.begin(target)
            held.append(
                section.seconds(
                    lambda a=aside, t=target: engine.checkpoints.begin_save(a, t, state="{}\n", num_updates=1)
                )
            )
            figures = {
                "state_bytes": figure("size of the weights without adapters", num_bytes, "B"),
                "stall_s": figure("pause of a rank", held[-1], "s"),
                "first_stall_s": figure("pause of a rank, first checkpoint", held[0], "s"),
                "pinned_s": figure("time of one copy of the weights to pinned memory", pinned_s, "s"),
                "stall_gb_per_s": figure("throughput during the pause", num_bytes / held[-1] / 1e9, "GB/s"),
                "stall_over_pinned": figure("time, pause / copy", held[-1] / pinned_s, at_most=GOAL_STALL),
            }
            section.save("stall", f"{section.subject.name}, adapters", figures)
            if number == 2:
                break
            begin_s = time.perf_counter()
            engine.checkpoints.writer.wait()
            written_s = time.perf_counter() - begin_s
        figures["write_s"] = figure("time to write the files in the background", written_s, "s")
        section.save("stall", f"{section.subject.name}, adapters", figures)
        engine.checkpoints.writer.wait()
    engine.close()
