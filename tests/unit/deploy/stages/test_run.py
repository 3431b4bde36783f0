"""The frame around the stages: what is recorded of an attempt, and what is drawn, without engines."""

import io
import json
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import deploy.stages.evaluation_stage
import deploy.stages.run
import learner.records.curves
from common.config.load import load_config
from common.errors import DatasetError, PublishError
from common.evaluation.predictions import Prediction, read_predictions
from common.runtime.metrics import MetricsFile
from common.types import Clip, Record
from deploy.commands.predict import _parse
from deploy.reporting.progress import Progress
from deploy.stages.evaluation_stage import evaluate_policy, is_due
from deploy.stages.run import run_stages
from deploy.wiring import Run
from learner.loops.evaluation import Asking
from learner.records.record import publish_failures
from tests.support.builders import make_prediction, make_record, metrics_line
from tests.support.clock import run as run_loop

Work = Callable[[Run], Awaitable[None]]


def run_in(folder: Path) -> Run:
    """One command's view of a run folder."""
    config = load_config(None, ["--run.root", str(folder.parent), "--run.name", folder.name])
    config = config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"policies": ("untrained", "grpo")})}
    )
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {
        "config": config,
        "folder": folder,
        "progress": Progress(Console(file=io.StringIO(), width=80)),
        "corpora": SimpleNamespace(sha256="abc", heldout=[], train=[make_record("a")]),
        "prepare": None,
    }
    return cast(Run, SimpleNamespace(**fields))


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Replaces the stages by one piece of work."""

    async def nothing(*_: Any) -> str:
        return ""

    def replace(work: Work) -> None:
        async def run_grpo_stage(run: Run, _: str) -> None:
            await work(run)

        monkeypatch.setattr(deploy.stages.run, "run_grpo_stage", run_grpo_stage)

    context = SimpleNamespace(get_session_name=lambda: "no session")
    monkeypatch.setattr(deploy.stages.run.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(deploy.stages.run, "evaluate_untrained", nothing)
    monkeypatch.setattr(deploy.stages.run, "run_sft_stage", nothing)
    return replace


async def train(run: Run) -> None:
    """A step, in its phase."""
    with run.progress.phase("grpo"):
        MetricsFile(run.folder / "metrics.jsonl").write(1, metrics_line())


async def nothing_to_do(_: Run) -> None:
    """A finished run."""


def test_a_finished_run_that_is_started_again_keeps_its_summary(
    tmp_path: Path, stages: Callable[[Work], None]
) -> None:
    folder = tmp_path / "run"
    stages(train)
    run_loop(run_stages(run_in(folder)))
    first = (folder / "summary.json").read_text()
    assert json.loads(first)["num_attempts"] == 1
    assert json.loads(first)["peak_memory_bytes"] > 0
    stages(nothing_to_do)
    again = run_in(folder)
    with again.progress.phase("model"):
        pass
    run_loop(run_stages(again))
    assert (folder / "summary.json").read_text() == first


@pytest.mark.parametrize("has_heldout", [True, False])
def test_a_run_ends_with_its_folder_and_the_command_that_goes_on(
    tmp_path: Path, stages: Callable[[Work], None], has_heldout: bool
) -> None:
    run = run_in(tmp_path / "my runs" / "run")
    (run.folder / "checkpoints" / "step_000001").mkdir(parents=True)
    run.corpora.heldout.extend([make_record("b")] * has_heldout)
    stages(train)
    run_loop(run_stages(run))
    file = run.progress.console.file
    assert isinstance(file, io.StringIO)
    folder, *_, last = file.getvalue().splitlines()[-3:]
    assert folder == f"run folder  {run.folder}"
    label, _, command = last.partition("        ")
    words = shlex.split(command)
    config = str(run.folder / "config.yaml")
    expected = (
        ["learner.evaluate", "--config", config, "--run", "run"]
        if has_heldout
        else [
            "learner.predict",
            "--model",
            str(run.folder / "checkpoints" / "step_000001" / "hf"),
            "--config",
            config,
        ]
    )
    assert (label, words[: len(expected) + 2]) == ("next", ["python", "-m", *expected])
    if not has_heldout:
        assert words[-1] == run.corpora.train[0].clip.video_path
        # as that command takes them
        options = _parse(words[3:])
        assert (options.taxonomy, options.out) == ("r1_omni", str(run.folder / "predictions.jsonl"))


def test_a_canary_that_fails_ends_the_run_and_is_counted_by_the_next(
    tmp_path: Path, stages: Callable[[Work], None]
) -> None:
    folder = tmp_path / "run"

    async def fail(_: Run) -> None:
        raise PublishError("no", proof="canary", engine="engine-0", subject="t")

    stages(fail)
    with pytest.raises(PublishError):
        run_loop(run_stages(run_in(folder)))
    assert [failure["proof"] for failure in publish_failures(folder)] == ["canary"]
    stages(train)
    summary = run_loop(run_stages(run_in(folder)))
    assert (summary.canary_failures, summary.num_attempts, summary.grpo_steps) == (1, 2, 1)


class Drawing:
    """TensorBoard, as it is opened and written."""

    def __init__(self, folder: Path, *, after_step: int | None = 0) -> None:
        self.folder, self.after_step = folder, after_step
        self.points: list[tuple[int, Mapping[str, float]]] = []
        opened.append(self)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keeps them."""
        self.points.append((step, metrics))


NO_ENGINES: Any = SimpleNamespace(dispatcher=None, slots=("engine-0",))
opened: list[Drawing] = []


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[Drawing]:
    """Those that the test opens."""
    opened.clear()
    monkeypatch.setattr(learner.records.curves, "TensorBoard", Drawing)
    return opened


def test_every_evaluation_is_drawn_and_hides_no_other(
    tmp_path: Path, stages: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch, drawings: list[Drawing]
) -> None:
    clips = [make_prediction("a", label="sad", answer="sad"), make_prediction("b", label="happy", answer=None)]

    async def predict_clips(*_: Any, **__: Any) -> list[Prediction]:
        return clips

    async def judge_two(run: Run) -> None:
        await evaluate_policy(run, NO_ENGINES, "untrained", version=0)
        await evaluate_policy(run, NO_ENGINES, "grpo", version=7)

    monkeypatch.setattr(deploy.stages.evaluation_stage, "predict_clips", predict_clips)
    stages(judge_two)
    run_loop(run_stages(run_in(tmp_path / "run")))
    assert {(d.folder, d.after_step) for d in drawings} == {(tmp_path / "run" / "tensorboard" / "eval", None)}
    assert [point for d in drawings for point in d.points] == [
        (step, {f"eval/{policy}/{name}": 0.5 for name in ("war", "uar", "war_exact", "format_rate")})
        for step, policy in ((0, "untrained"), (7, "grpo"))
    ]


def test_the_last_policy_is_asked_in_every_condition_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawings: list[Drawing]
) -> None:
    asked: list[list[tuple[str | None, str | None]]] = []

    async def predict_clips(records: list[Record], *_: Any, **__: Any) -> list[Prediction]:
        asked.append([(r.clip.video_path, r.clip.audio_path) for r in records])
        return [make_prediction(r.prompt_id, label=r.label, answer="sad") for r in records]

    monkeypatch.setattr(deploy.stages.evaluation_stage, "predict_clips", predict_clips)
    run = run_in(tmp_path / "run")
    heldout = [
        replace(
            make_record(label, label=label), clip=Clip(clip_id=label, video_path=f"{label}.mp4", audio_path="x")
        )
        for label in ("sad", "happy")
    ]
    object.__setattr__(run.corpora, "heldout", heldout)
    controls = run.config.evaluation.model_copy(update={"controls": ("video_only", "audio_only")})
    object.__setattr__(run, "config", run.config.model_copy(update={"evaluation": controls}))
    run_loop(evaluate_policy(run, NO_ENGINES, "untrained", version=0))
    assert len(asked) == 1, "controls are the last policy's"
    run_loop(evaluate_policy(run, NO_ENGINES, "grpo", version=7))
    given = [("sad.mp4", "x"), ("happy.mp4", "x")]
    assert asked == [given, given, [("sad.mp4", None), ("happy.mp4", None)], [(None, "x"), (None, "x")]]
    names = ["grpo", "grpo_audio_only", "grpo_video_only", "untrained"]
    assert sorted(p.stem for p in (run.folder / "eval").glob("*.json")) == names
    # one that was lost alone is asked again
    (run.folder / "eval" / "grpo_audio_only.json").unlink()
    assert is_due(run, "grpo")
    run_loop(evaluate_policy(run, NO_ENGINES, "grpo", version=7))
    assert (len(asked), is_due(run, "grpo")) == (5, False)


def test_a_run_swaps_sounds_within_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawings: list[Drawing]
) -> None:
    asked: list[list[Record]] = []

    async def predict_clips(records: list[Record], asking: Asking, **_: Any) -> list[Prediction]:
        asked.append(records)
        return [asking.prediction(r, text=r.label) for r in records]

    monkeypatch.setattr(deploy.stages.evaluation_stage, "predict_clips", predict_clips)
    run = run_in(tmp_path / "run")
    clip = Clip(clip_id="", video_path="v.mp4", audio_path="")
    heldout = [
        replace(
            make_record(f"{name}-{label}", label=label),
            dataset=name,
            clip=replace(clip, audio_path=f"{name}-{label}.wav"),
        )
        for name in ("dfew", "mafw", "ravdess")
        for label in ("sad", "happy")
    ]
    object.__setattr__(run.corpora, "heldout", heldout)
    controls = run.config.evaluation.model_copy(update={"controls": ("swapped_audio",)})
    object.__setattr__(run, "config", run.config.model_copy(update={"evaluation": controls}))
    run_loop(evaluate_policy(run, NO_ENGINES, "grpo", version=7))
    other = {"sad": "happy", "happy": "sad"}
    assert [r.clip.audio_path for r in asked[1]] == [f"{r.dataset}-{other[r.label]}.wav" for r in heldout]
    # what was said is a file for learner.evaluate
    said = read_predictions(run.folder / "eval" / "grpo_swapped_audio.jsonl")
    assert [(p.dataset, p.condition, p.policy_version) for p in said][::2] == [
        (name, "swapped_audio", 7) for name in ("dfew", "mafw", "ravdess")
    ]


def test_what_was_said_is_kept_where_it_cannot_be_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawings: list[Drawing]
) -> None:
    async def predict_clips(*_: Any, **__: Any) -> list[Prediction]:
        return [make_prediction("a", label="bored", answer="sad")]

    monkeypatch.setattr(deploy.stages.evaluation_stage, "predict_clips", predict_clips)
    run = run_in(tmp_path / "run")
    with pytest.raises(DatasetError, match="a label must be of the taxonomy"):
        run_loop(evaluate_policy(run, NO_ENGINES, "grpo", version=7))
    assert [p.id for p in read_predictions(run.folder / "eval" / "grpo.jsonl")] == ["a"]
    assert is_due(run, "grpo")


def test_a_stage_that_resumes_hides_only_its_own_points(tmp_path: Path, drawings: list[Drawing]) -> None:
    run = run_in(tmp_path / "run")
    for stage, after_step in (("sft", 0), ("grpo", 20)):
        learner.records.curves.curves_of(run.folder, run.config.run, stage, after_step=after_step)
    assert [(d.folder.name, d.after_step) for d in drawings] == [("sft", 0), ("grpo", 20)]
