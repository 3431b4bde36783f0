"""What a person sees while a run goes on, how it is stopped, and the curves it leaves."""

import asyncio
import io
import signal
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.errors import ConfigError, StopRequestedError
from deploy.interrupt import Interrupts
from deploy.progress import Progress, StepLines
from learner.curves import TensorBoard, WandB


def progress() -> tuple[Progress, Callable[[], str]]:
    """One that writes to memory, and what it has written."""
    file = io.StringIO()
    return Progress(Console(file=file, width=80)), file.getvalue


def test_phases_add_up_under_their_names() -> None:
    shown, text = progress()
    with shown.phase("model"):
        assert shown.seconds == {}
    first = shown.seconds["model"]
    with shown.phase("model"), shown.bar("corpus [x]") as update:
        update(1, 2)
    assert shown.seconds["model"] > first > 0
    assert set(shown.seconds) == {"model", "corpus [x]"}
    assert [line.split()[0] for line in text().splitlines()] == ["model", "corpus", "model"]


def test_a_phase_that_fails_is_not_said_to_have_ended() -> None:
    shown, text = progress()
    with pytest.raises(ZeroDivisionError), shown.phase("model"):
        raise ZeroDivisionError
    assert (shown.seconds, text()) == ({}, "")


def test_what_is_said_is_no_markup() -> None:
    shown, text = progress()
    shown.say("[/bold] /runs/[a]")
    assert text() == "[/bold] /runs/[a]\n"


def test_a_line_comes_every_so_many_steps_and_at_the_last() -> None:
    shown, text = progress()
    lines = StepLines(shown, name="sft", first_step=0, num_steps=7, every=3)
    for step in range(1, 8):
        lines.step(step, f"loss {step}")
    assert [line.split()[:4] for line in text().splitlines()] == [
        ["sft", f"{step}/7", "loss", f"{step}"] for step in (3, 6, 7)
    ]


def test_the_time_that_is_left_is_that_of_the_steps_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    import deploy.progress

    clock = iter([100.0, 120.0])
    monkeypatch.setattr(deploy.progress.time, "perf_counter", lambda: next(clock))
    shown, text = progress()
    # resumed after step 10: five steps took 20 s, and ten are left
    StepLines(shown, name="step", first_step=10, num_steps=25).step(15, "x")
    assert text().split() == ["step", "15/25", "x", "40", "s", "left"]


# -- signals --------------------------------------------------------------------------------------


def with_signals(work: Callable[[Interrupts], Coroutine[Any, Any, None]]) -> list[str]:
    """What was said while the work ran with the signals installed."""
    said: list[str] = []

    async def installed() -> None:
        interrupts = Interrupts(said.append)
        interrupts.install()
        try:
            await work(interrupts)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)

    asyncio.run(installed())
    return said


async def signalled(number: signal.Signals) -> None:
    """Raises a signal and lets the loop take it."""
    signal.raise_signal(number)
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals) -> None:
    told: list[bool] = []

    async def work(interrupts: Interrupts) -> None:
        with interrupts.cleanly(lambda: told.append(interrupts.is_asked)):
            interrupts.check()
            await signalled(number)
            assert told == [True]
            with pytest.raises(StopRequestedError):
                interrupts.check()
            with pytest.raises(asyncio.CancelledError):
                await signalled(number)
        assert told == [True]

    said = with_signals(work)
    assert said == ["stopping when this step is done; once more to stop at once"]


def test_a_signal_where_nobody_listens_ends_at_once() -> None:
    async def work(interrupts: Interrupts) -> None:
        with interrupts.cleanly(lambda: pytest.fail("the block is over")):
            pass
        with pytest.raises(asyncio.CancelledError):
            await signalled(signal.SIGTERM)
        assert not interrupts.is_asked

    assert with_signals(work) == []


# -- curves ---------------------------------------------------------------------------------------


def events(folder: Path) -> list[Any]:
    """Of the one event file, in order."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    data, at, found = path.read_bytes(), 0, list[Any]()
    while at < len(data):
        # length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += length + 16
    return found


def closed(curves: TensorBoard) -> None:
    """Waits for the library's thread."""
    curves._writer.close()  # pyright: ignore[reportPrivateUsage]


def test_every_metric_of_a_step_is_a_point(tmp_path: Path) -> None:
    curves = TensorBoard(tmp_path / "tensorboard")
    curves.write(1, {"reward/total/mean": 0.5, "learner/loss": -2.0})
    curves.write(2, {"reward/total/mean": 0.75})
    closed(curves)
    points = [(e.step, v.tag, v.simple_value) for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    assert points == [(1, "reward/total/mean", 0.5), (1, "learner/loss", -2.0), (2, "reward/total/mean", 0.75)]


def test_a_resumed_run_hides_the_points_behind_its_step(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    curves = TensorBoard(tmp_path, after_step=4)
    curves.write(5, {"a": 1.0})
    closed(curves)
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [5]


def test_a_project_without_its_library_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"run\.wandb_project must be empty without wandb, got 'p'"):
        WandB(project="p", name="run", folder=tmp_path)
