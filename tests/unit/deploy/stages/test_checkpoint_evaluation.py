"""An evaluation of a checkpoint, before any engine starts: which weights, which clips, which settings."""

import asyncio
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
from pydantic import Field
from rich.console import Console

import deploy.checks.preflight
import deploy.stages.checkpoint_evaluation
from common.config.corpora import DfewDataConfig, MixDataConfig, R1OmniDataConfig
from common.config.data import SyntheticDataConfig
from common.config.load import load_config
from common.config.run import OmniConfig
from common.datasets.corpus import Corpus
from common.datasets.synthetic.corpus import corpus_folder
from common.errors import ConfigError, DatasetError, ModelError
from common.evaluation.controls import asked_in_groups
from common.evaluation.predictions import Prediction, read_predictions
from common.types import Clip, Condition, Record
from deploy.reporting.progress import Progress
from deploy.stages.checkpoint_evaluation import (
    EvaluationRequest,
    Policy,
    _answers,
    _heldout,
    at_fold,
    evaluate,
    evaluation_config,
    folds_of,
    policy_of,
)
from deploy.wiring import Run
from learner.checkpoints import checkpoint
from learner.checkpoints.checkpoint import Best, RunState
from learner.loops.evaluation import Asking
from tests.support.builders import make_record
from tests.support.clock import run as run_loop


def request(**more: Any) -> EvaluationRequest:
    """Of the last checkpoint of a run."""
    values: dict[str, Any] = {"model": None, "run": "demo", "checkpoint": "last", "conditions": ("av",)}
    return EvaluationRequest(**{**values, "every_fold": False, "name": None, "out": None, "seed": 0, **more})


@pytest.fixture
def config(tmp_path: Path) -> OmniConfig:
    """Of runs in this folder."""
    return load_config(None, ["--run.root", str(tmp_path), "--run.name", "demo"])


def save(folder: Path, step: int) -> Path:
    """A whole checkpoint."""
    target = checkpoint.checkpoint_folder(folder, step)
    partial = checkpoint.begin(target)
    (partial / "hf").mkdir()
    (partial / "hf" / "config.json").write_text("{}")
    state = RunState(step=step, policy_version=step + 1, cursor=0, ledger_bytes=0)
    (partial / "state.json").write_text(checkpoint.state_text(state))
    checkpoint.finish(partial, target)
    return target


def test_the_policy_is_the_last_the_best_or_a_steps(config: OmniConfig, tmp_path: Path) -> None:
    for step in (4, 8, 12):
        save(tmp_path / "demo", step)
    checkpoint.note_best(tmp_path / "demo", Best(step=8, war=0.5, uar=0.5))
    for which, step in (("last", 12), ("best", 8), ("4", 4)):
        found = policy_of(config, request(checkpoint=which))
        path = tmp_path / "demo" / "checkpoints" / f"step_{step:06d}" / "hf"
        assert found == Policy(path=str(path), version=step + 1, name=f"step_{step:06d}")


def test_a_checkpoint_that_is_not_there_or_not_whole_is_a_mistake(config: OmniConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--run must be a run in"):
        policy_of(config, request())
    (tmp_path / "demo").mkdir()
    with pytest.raises(ConfigError, match="must have a whole checkpoint, got none"):
        policy_of(config, request())
    whole = save(tmp_path / "demo", 4)
    for which in ("5", "newest", "-1"):
        with pytest.raises(ConfigError, match=f"must be best, last or a step of 4, got '{which}'"):
            policy_of(config, request(checkpoint=which))
    with pytest.raises(ConfigError, match="were not evaluated; give last or a step of 4"):
        policy_of(config, request(checkpoint="best"))
    (whole / "hf" / "config.json").write_text("{ }")
    with pytest.raises(ModelError, match=r"as it was written, got .*step_000004"):
        policy_of(config, request(checkpoint="4"))


def test_a_folder_or_the_configured_model_is_a_policy_too(config: OmniConfig, tmp_path: Path) -> None:
    found = policy_of(config, request(run=None, model=str(tmp_path / "r1")))
    assert found == Policy(path=str(tmp_path / "r1"), version=0, name="r1")
    assert policy_of(config, request(run=None)) == Policy(path=None, version=0, name="tiny")
    trained = save(tmp_path / "other", 4) / "hf"
    found = policy_of(config, request(run=None, model=str(trained)))
    assert found == Policy(path=str(trained), version=5, name="hf")


def test_the_settings_of_a_run_ask_held_out_clips_and_nothing_else(config: OmniConfig) -> None:
    policy = Policy(path="/weights", version=3, name="x")
    found = evaluation_config(config, policy, name="demo-evaluation")
    assert (found.run.name, found.model.path, found.sft.steps) == ("demo-evaluation", "/weights", 0)
    assert found.evaluation.policies == ("grpo",)
    assert found.rollout == config.rollout
    assert found.data == config.data
    lacking = load_config(None, ["--data.source", "{type: r1_omni, path: a.json}"])
    with pytest.raises(ConfigError, match=r"data\.heldout must be given"):
        evaluation_config(lacking, policy, name="x")


def test_a_corpus_that_the_run_has_written_serves_again(config: OmniConfig, tmp_path: Path) -> None:
    source = config.data.source
    assert isinstance(source, SyntheticDataConfig)
    corpus = corpus_folder(tmp_path / "demo", source)
    corpus.mkdir(parents=True)
    policy = Policy(path="/weights", version=3, name="x")
    assert evaluation_config(config, policy, name="demo-evaluation").data.source == source, "it is not whole"
    (corpus / "corpus.json").write_text("{}")
    data = evaluation_config(config, policy, name="demo-evaluation").data
    assert isinstance(data.source, R1OmniDataConfig)
    assert data.heldout is not None
    assert (data.source.path, data.heldout.path) == (str(corpus / "train.json"), str(corpus / "heldout.json"))
    assert evaluation_config(config, policy, name="other-evaluation").data.source == source


class Folded(R1OmniDataConfig):
    """A corpus with folds."""

    fold: int | None = Field(default=1, ge=1, le=5)
    """Of them."""


def test_folds_are_those_that_the_corpus_may_be_given(config: OmniConfig) -> None:
    with pytest.raises(ConfigError, match=r"--every-fold must come with data\.heldout of corpora with folds"):
        folds_of(config)
    heldout: Literal["r1_omni"] = "r1_omni"
    for source, folds in (
        (Folded(type=heldout, path="a.json"), (1, 2, 3, 4, 5)),
        (R1OmniDataConfig(type=heldout, path="a"), None),
    ):
        changed = config.model_copy(update={"data": config.data.model_copy(update={"heldout": source})})
        if folds:
            assert folds_of(changed) == folds
        else:
            with pytest.raises(ConfigError, match="got 'r1_omni'"):
                folds_of(changed)


def mixed(config: OmniConfig, *sources: str) -> OmniConfig:
    """With held-out clips of several corpora."""
    heldout = f"{{type: mix, sources: [{', '.join(sources)}]}}"
    return load_config(
        None, ["--run.root", config.run.root, "--data.source", sources[0], "--data.heldout", heldout]
    )


def test_the_corpora_of_a_mix_go_from_fold_to_fold_together(config: OmniConfig) -> None:
    dfew, mafw = "{type: dfew, root: /d, fold: 2}", "{type: mafw, root: /m, fold: 1}"
    chosen = mixed(config, dfew, mafw)
    assert folds_of(chosen) == (1, 2, 3, 4, 5)
    for fold in folds_of(chosen):
        heldout = at_fold(chosen, fold).data.heldout
        assert isinstance(heldout, MixDataConfig)
        assert [(s.type, getattr(s, "fold", None)) for s in heldout.sources] == [("dfew", fold), ("mafw", fold)]
    with pytest.raises(ConfigError, match="as many folds each, got 5 of dfew, 6 of ravdess"):
        folds_of(mixed(config, dfew, "{type: ravdess, root: /r}"))
    with pytest.raises(ConfigError, match="corpora with folds, such as dfew and mafw, got 'table'"):
        folds_of(mixed(config, dfew, "{type: table, path: /t.csv}"))


def test_every_fold_is_read_once_and_the_runs_own_is_there(
    config: OmniConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    heldout = DfewDataConfig(type="dfew", root="/dfew", fold=2)
    chosen = config.model_copy(update={"data": config.data.model_copy(update={"heldout": heldout})})
    read: list[int] = []

    def read_corpus(source: DfewDataConfig, **_: Any) -> Corpus:
        read.append(source.fold)
        return Corpus(records=(heard(f"fold-{source.fold}", "sad"),))

    monkeypatch.setattr(deploy.checks.preflight, "read_corpus", read_corpus)
    corpora = SimpleNamespace(heldout=[heard("own", "sad")])
    run = cast(Run, SimpleNamespace(config=chosen, corpora=corpora))
    found = _heldout(run, folds_of(chosen))
    assert [(r.prompt_id, r.fold) for r in found] == [
        ("fold-1", 1),
        ("own", 2),
        ("fold-3", 3),
        ("fold-4", 4),
        ("fold-5", 5),
    ]
    assert read == [1, 3, 4, 5]
    assert _heldout(run, ()) == corpora.heldout


def test_the_shipped_reinforcement_can_be_evaluated_on_every_fold() -> None:
    assert folds_of(load_config("deploy/configs/r1_omni_grpo.yaml", [])) == (1, 2, 3, 4, 5)


def heard(name: str, label: str, *, dataset: str = "d", fold: int | None = None) -> Record:
    """A clip with a sound of its own."""
    clip = Clip(clip_id=name, video_path=f"{name}.mp4", audio_path=f"{name}.wav")
    return replace(make_record(name, label=label), clip=clip, dataset=dataset, fold=fold)


def test_sounds_are_swapped_within_a_dataset_and_fold() -> None:
    records = [
        heard(f"{dataset}{fold}{label}", label, dataset=dataset, fold=fold)
        for label in ("sad", "happy")
        for dataset in ("x", "y")
        for fold in (1, 2)
    ]
    asked = asked_in_groups(records, "swapped_audio", classes=None, seed=0)
    assert [r.prompt_id for r in asked] == [r.prompt_id for r in records]
    for record in asked:
        other = "happy" if record.label == "sad" else "sad"
        assert record.clip.audio_path == f"{record.dataset}{record.fold}{other}.wav"


def test_predictions_say_how_what_and_where() -> None:
    record = replace(heard("a", "sad", fold=2), labels=("sad", "fear"))
    silent = replace(
        heard("b", "happy"), taxonomy="mafw", clip=Clip(clip_id="b", video_path="b.mp4", audio_path=None)
    )
    asking = Asking(policy_version=4, taxonomy="open", condition="no_think")
    first = asking.prediction(record, text="<answer>sad</answer>")
    second = asking.prediction(silent, failure="media/undecodable: broken")
    assert (first.id, first.dataset, first.fold, first.labels, first.taxonomy) == (
        "a",
        "d",
        2,
        ("sad", "fear"),
        "open",
    )
    assert (first.text, first.video, first.audio) == ("<answer>sad</answer>", "a.mp4", "a.wav")
    assert (first.policy_version, first.condition, first.failure) == (4, "no_think", None)
    assert (second.taxonomy, second.audio, second.text) == ("mafw", None, "")
    assert second.failure == "media/undecodable: broken"


class Engines:
    """That need no start."""

    async def __aenter__(self) -> tuple["Engines", None]:
        return self, None

    async def until_warm(self) -> None:
        """They are."""

    async def __aexit__(self, *_: object) -> None:
        """Nothing to end."""


@pytest.fixture
def said(config: OmniConfig, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A run whose policy says `sad` of every clip, but in the conditions that are broken."""
    found = SimpleNamespace(broken=set[str](), console=Console(file=io.StringIO(), width=200))

    async def ask(run: Run, engines: Any, clips: list[Record], asking: Asking, *, name: str) -> list[Prediction]:
        if name in found.broken:
            return [asking.prediction(r, failure="media/undecodable: broken") for r in clips]
        return [asking.prediction(r, text="<answer>sad</answer>") for r in clips]

    monkeypatch.setattr(deploy.stages.checkpoint_evaluation, "open_fleet", lambda *_, **__: Engines())
    monkeypatch.setattr(deploy.stages.checkpoint_evaluation, "ask", ask)
    fields: dict[str, Any] = {
        "config": config,
        "model_path": "/weights",
        "progress": Progress(found.console),
        "interrupts": SimpleNamespace(check=lambda: None),
        "corpora": SimpleNamespace(heldout=[]),
    }
    found.run = cast(Run, SimpleNamespace(**fields))
    return found


def test_a_control_of_which_nothing_could_be_asked_is_left_out_and_said(
    said: SimpleNamespace, tmp_path: Path
) -> None:
    clips = [heard("a", "sad"), heard("b", "happy")]
    conditions: list[Condition] = ["av", "audio_only", "no_think"]
    asked, kept = dict.fromkeys(conditions, clips), tmp_path / "eval" / "predictions.jsonl"
    said.broken = {"audio_only"}
    found = run_loop(_answers(said.run, asked, version=2, path=kept))
    assert [(p.condition, p.id) for p in found] == [("av", "a"), ("av", "b"), ("no_think", "a"), ("no_think", "b")]
    assert read_predictions(kept) == found
    assert (
        "warning: audio_only is left out of the report: some held-out clip must be usable"
        in said.console.file.getvalue()
    )
    said.broken = {"av"}
    with pytest.raises(DatasetError, match="some held-out clip must be usable"):
        run_loop(_answers(said.run, asked, version=2, path=kept))


def opened(said: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, records: list[Record]) -> None:
    """An evaluation asks these in that run."""
    said.run.corpora.heldout = records

    class Opened:
        async def __aenter__(self) -> Run:
            return said.run

        async def __aexit__(self, *_: object) -> None:
            """Nothing to end."""

    monkeypatch.setattr(deploy.stages.checkpoint_evaluation, "open_run", lambda *_: Opened())


def ravdess(name: str, label: str, taxonomy: str) -> Record:
    """As the reader leaves it in a run under r1_omni: a class of both keeps its own taxonomy."""
    return replace(heard(name, label, dataset="ravdess"), taxonomy=taxonomy)


def test_ravdess_is_scored_in_the_taxonomy_of_the_run(
    said: SimpleNamespace, config: OmniConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # calm has become neutral there, and says so; the others have not
    opened(said, monkeypatch, [ravdess("a", "neutral", "r1_omni"), ravdess("b", "sad", "ravdess")])
    report, folder = asyncio.run(evaluate(config, request(run=None, name="x", out=tmp_path / "out")))
    (found,) = report.assessments
    assert (found.taxonomy, found.normalised.war.value) == ("r1_omni", 0.5)
    assert folder == tmp_path / "out"


def test_answers_that_cannot_be_scored_are_kept(
    said: SimpleNamespace, config: OmniConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened(said, monkeypatch, [heard("a", "sad"), heard("b", "bored")])
    kept = tmp_path / "out" / "x" / "predictions.jsonl"
    with pytest.raises(DatasetError, match=rf"got 'bored'.*; the predictions are in {kept}"):
        asyncio.run(evaluate(config, request(run=None, name="x", out=tmp_path / "out")))
    assert [(p.id, p.text) for p in read_predictions(kept)] == [
        ("a", "<answer>sad</answer>"),
        ("b", "<answer>sad</answer>"),
    ]
