"""What a person sees while a run goes on, how it is stopped, and the curves it leaves."""

import asyncio
import io
import os
import re
import signal
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from common.errors import ConfigError, StopRequestedError
from common.runtime.metrics import MetricsFile
from common.runtime.screen import Screen
from deploy.interrupt import Interrupts
from deploy.reporting.progress import Progress, StepLines
from learner.records.curves import TensorBoard, WandB
from learner.records.record import CurvedMetrics


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


@pytest.mark.parametrize("kind", ["phase", "bar"])
def test_a_phase_that_fails_is_counted_and_not_said_to_have_ended(kind: str) -> None:
    shown, text = progress()
    with pytest.raises(ZeroDivisionError), getattr(shown, kind)("model"):
        raise ZeroDivisionError
    assert shown.seconds["model"] > 0
    assert text() == ""


def test_the_seconds_of_a_command_begin_with_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.5])
    monkeypatch.setattr("deploy.reporting.progress.time.perf_counter", lambda: next(clock))
    shown, _ = progress()
    assert shown.seconds_total == 7.5


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
    import deploy.reporting.progress

    shown, text = progress()
    clock = iter([100.0, 120.0])
    monkeypatch.setattr(deploy.reporting.progress.time, "perf_counter", lambda: next(clock))
    # resumed after step 10: five steps took 20 s, and ten are left
    StepLines(shown, name="step", first_step=10, num_steps=25).step(15, "x")
    assert text().split() == ["step", "15/25", "x", "40", "s", "left"]


def test_a_step_shows_its_phase_and_the_seconds_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("deploy.reporting.progress.time.perf_counter", lambda: now)
    shown, _ = progress()
    lines = StepLines(shown, name="step", first_step=4, num_steps=10)
    with shown.phase("grpo"):
        live = shown.live
        assert live is not None
        seen = [str(live.__rich__())]
        for phase in ("rollout", "learn", "publish"):
            lines.phase(phase)
            now += 2.4
            seen.append(str(live.__rich__()))
        lines.step(5, "reward 1")
        for phase in ("checkpoint", "rollout"):
            lines.phase(phase)
            seen.append(str(live.__rich__()))
    assert seen == [
        "grpo  0 s",
        "step 5/10  rollout  2 s",
        "step 5/10  learn  2 s",
        "step 5/10  publish  2 s",
        "step 5/10  checkpoint  0 s",
        "step 6/10  rollout  0 s",
    ]
    assert shown.live is None


def work(shown: Progress) -> None:
    """A phase with a task, and a task outside of any."""
    lines = StepLines(shown, name="step", first_step=0, num_steps=3)
    with shown.phase("grpo"):
        lines.phase("rollout")
        lines.step(1, "reward 1")
        lines.phase("learn")
    lines.phase("publish")


def test_a_terminal_shows_what_goes_on_and_keeps_no_line_of_it() -> None:
    file = io.StringIO()
    work(Progress(Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm"})))
    shown = file.getvalue()
    # drawn again below what is printed, and at the end, and then wiped
    places = [shown.rindex(text) for text in ("reward 1", "step 1/3  rollout", "step 2/3  learn", "\x1b[2K")]
    assert places == sorted(places)
    assert "publish" not in shown


def test_a_log_shows_nothing_of_what_goes_on() -> None:
    shown, text = progress()
    work(shown)
    assert [line.split()[0] for line in text().splitlines()] == ["step", "grpo"]
    assert "rollout" not in text()
    assert "learn" not in text()


def test_a_log_gets_a_line_of_countable_work_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("common.runtime.screen.time.monotonic", lambda: now)
    shown, text = progress()
    with shown.bar("clips [x]") as update:
        for done in range(6):
            update(done, 5)
            now += 20.0
    # every 30 s, and not at the end, which has a line of its own
    lines = [line.split() for line in text().splitlines()]
    assert lines[:-1] == [["clips", "[x]", "2/5", "60", "s", "left"], ["clips", "[x]", "4/5", "20", "s", "left"]]
    assert lines[-1][:2] == ["clips", "[x]"]


def test_a_terminal_shows_a_bar_and_keeps_no_line_of_it() -> None:
    file = io.StringIO()
    shown = Progress(Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm"}))
    with shown.bar("clips") as update:
        update(2, 5)
    assert "2/5" in file.getvalue()
    assert file.getvalue().rindex("\x1b[2K") > file.getvalue().rindex("2/5")


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
        with interrupts.cleanly(lambda: told.append(interrupts.is_requested)):
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
        assert not interrupts.is_requested

    assert with_signals(work) == []


@pytest.mark.parametrize("from_thread", [False, True])
def test_a_run_whose_output_nobody_reads_is_asked_to_stop_once_and_says_nothing_more(from_thread: bool) -> None:
    reader, writer = os.pipe()
    told: list[tuple[bool, bool]] = []

    def listen(interrupts: Interrupts) -> None:
        told.append((interrupts.is_requested, threading.current_thread() is threading.main_thread()))

    async def work(interrupts: Interrupts) -> None:
        with os.fdopen(writer, "w", buffering=1) as file:
            shown = Progress(Screen(file=file, width=80))
            shown.when_unread(interrupts.stopper())
            with interrupts.cleanly(lambda: listen(interrupts)):
                shown.say("step 1")
                assert os.read(reader, 99) == b"step 1\n"
                os.close(reader)
                for text in ("step 2", "step 3"):
                    await (asyncio.to_thread(shown.say, text) if from_thread else asyncio.sleep(0, shown.say(text)))
                    for _ in range(5):
                        await asyncio.sleep(0)
            with pytest.raises(BrokenPipeError):
                file.flush()
            os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
        with pytest.raises(StopRequestedError):
            interrupts.check()

    with_signals(work)
    assert told == [(True, True)]


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


def test_a_resumed_run_hides_the_points_after_its_step(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    curves = TensorBoard(tmp_path, after_step=4)
    curves.write(5, {"a": 1.0})
    closed(curves)
    starts = [e.step for e in events(tmp_path) if e.session_log.status == SessionLog.START]
    assert starts == [5]


def test_curves_that_hide_nothing_say_so(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    curves = TensorBoard(tmp_path, after_step=None)
    curves.write(5, {"a": 1.0})
    closed(curves)
    assert [e for e in events(tmp_path) if e.session_log.status == SessionLog.START] == []


def test_two_of_one_second_do_not_write_over_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1.7e9)
    for value in (1.0, 2.0):
        curves = TensorBoard(tmp_path, after_step=None)
        curves.write(1, {"a": value})
        closed(curves)
    assert len(list(tmp_path.iterdir())) == 2


def test_supervised_steps_are_written_and_drawn(tmp_path: Path) -> None:
    curves = TensorBoard(tmp_path / "tensorboard")
    CurvedMetrics(tmp_path / "metrics.jsonl", curves=[curves]).write(3, {"sft/loss": 0.5})
    closed(curves)
    assert MetricsFile(tmp_path / "metrics.jsonl").read() == [{"step": 3, "sft/loss": 0.5}]
    points = [(e.step, v.tag, v.simple_value) for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    assert points == [(3, "sft/loss", 0.5)]


class FakeWandB(ModuleType):
    """The library: one run per process; keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.run: FakeWandBRun | None = None

    def init(self, **arguments: Any) -> "FakeWandBRun":
        """Another run of the process."""
        self.inits.append(arguments)
        self.run = FakeWandBRun(arguments["id"])
        return self.run


class FakeWandBRun:
    """Refuses steps that do not rise, as the library does."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.axes: dict[str, str | None] = {}
        self.points: list[dict[str, float]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        """Over which axis curves are drawn."""
        assert name not in self.axes or self.axes[name] == step_metric
        self.axes[name] = step_metric

    def log(self, data: dict[str, float]) -> None:
        """A point of each curve; the step is the library's own count."""
        self.points.append(data)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeWandB:
    """In the place of the real one."""
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_all_stages_log_to_one_run_of_their_project(library: FakeWandB, tmp_path: Path) -> None:
    def stage(name: str) -> WandB:
        return WandB(project="emotions", name="demo", folder=tmp_path, stage=name)

    stage("eval").write(0, {"eval/untrained/war": 0.125})
    stage("sft").write(30, {"sft/loss": 0.5})
    grpo = stage("grpo")
    grpo.write(1, {"reward/total/mean": 0.25, "learner/loss": -1.0})
    grpo.write(2, {"reward/total/mean": 0.5})
    (arguments,) = library.inits
    run_id = arguments.pop("id")
    assert re.fullmatch("[0-9a-f]{32}", run_id)
    assert arguments == {"project": "emotions", "name": "demo", "dir": str(tmp_path), "resume": "allow"}
    assert (tmp_path / "wandb_id").read_text() == run_id
    assert library.run is not None
    assert library.run.points == [
        {"eval/untrained/war": 0.125, "eval/step": 0},
        {"sft/loss": 0.5, "sft/step": 30},
        {"reward/total/mean": 0.25, "learner/loss": -1.0, "grpo/step": 1},
        {"reward/total/mean": 0.5, "grpo/step": 2},
    ]
    assert library.run.axes == {
        **{f"{stage}/step": None for stage in ("eval", "sft", "grpo")},
        "eval/*": "eval/step",
        "sft/*": "sft/step",
        "reward/*": "grpo/step",
        "learner/*": "grpo/step",
    }


def test_a_resumed_run_keeps_its_id_and_another_of_its_name_has_its_own(library: FakeWandB, tmp_path: Path) -> None:
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        # another process
        library.run = None
        WandB(project="p", name="demo", folder=tmp_path / folder, stage="grpo")
    first, resumed, other = (arguments["id"] for arguments in library.inits)
    assert first == resumed != other


def test_a_run_of_somebody_elses_is_left_alone(library: FakeWandB, tmp_path: Path) -> None:
    theirs = library.init(id="theirs")
    WandB(project="p", name="demo", folder=tmp_path, stage="grpo").write(1, {"a/b": 1.0})
    assert theirs.points == []


def test_a_project_without_its_library_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"run\.wandb_project must be empty without wandb, got 'p'"):
        WandB(project="p", name="run", folder=tmp_path, stage="grpo")
