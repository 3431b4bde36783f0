"""The evaluation of one checkpoint: its answers to the held-out clips, one condition after the other.

It consumes held-out records and produces predictions. The run is neither locked nor changed: it may still train.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config.corpora import AnyCorpusConfig, MixDataConfig, R1OmniDataConfig
from common.config.data import DataConfig, SyntheticDataConfig
from common.config.load import checked
from common.config.run import OmniConfig
from common.datasets.synthetic.corpus import corpus_folder
from common.errors import ConfigError, DatasetError, ModelError
from common.evaluation.controls import asked_in_groups
from common.evaluation.predictions import Prediction, write_predictions
from common.evaluation.report import Report, make_report
from common.labels import TAXONOMIES
from common.runtime.screen import Screen
from common.types import Condition, Record
from deploy.checks.preflight import heldout_clips
from deploy.reporting.progress import Progress
from deploy.stages.evaluation_stage import ask
from deploy.wiring import Run, open_fleet, open_run, starting
from learner.checkpoints import checkpoint
from learner.loops.evaluation import Asking, require_some_asked

SUFFIX = "-evaluation"
"""Suffix of the evaluation's folder, which lies beside that of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """The policy, the conditions and the folder of an evaluation."""

    model: str | None
    """A checkpoint's folder."""
    run: str | None
    """Name of the run of the policy; without a run or a model, the configured model is evaluated."""
    checkpoint: str
    """Checkpoint of that run: `best`, `last` or a step."""
    conditions: tuple[Condition, ...]
    every_fold: bool
    name: str | None
    """Name of the report; None for the name of the policy."""
    out: Path | None
    """Folder of the report's folder; None for that of the policy."""
    seed: int
    """Seed of the resampling and of swapped sounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The weights of a policy."""

    path: str | None
    """A checkpoint's folder; None builds the tiny model."""
    version: int
    name: str


async def evaluate(config: OmniConfig, request: EvaluationRequest) -> tuple[Report, Path]:
    """Evaluates a policy, and returns the report and its folder, which holds the predictions already.

    Raises:
        UserError: before any engine starts, or if the predictions, which are kept, cannot be scored.
    """
    policy = await asyncio.to_thread(policy_of, config, request)
    settings = evaluation_config(config, policy, name=f"{request.run or config.run.name}{SUFFIX}")
    folds = folds_of(settings) if request.every_fold else ()
    name = request.name or policy.name
    folder = request.out or Path(settings.run.root) / (request.run or settings.run.name) / "eval"
    answers = folder / name / "predictions.jsonl"
    async with open_run(settings, Progress(Screen(stderr=True))) as run:
        records = await asyncio.to_thread(_heldout, run, folds)
        classes = TAXONOMIES[settings.data.taxonomy]
        # a condition that does not suit the clips is an error before any engine starts
        records_by_condition: dict[Condition, list[Record]] = {
            condition: asked_in_groups(records, condition, classes=classes, seed=request.seed)
            for condition in request.conditions
        }
        predictions = await _answers(run, records_by_condition, version=policy.version, path=answers)
    try:
        report = make_report(predictions, name=name, sources=[run.model_path], seed=request.seed)
    except DatasetError as error:
        raise DatasetError(f"{error}; the predictions are in {answers}") from error
    return report, folder


async def _answers(
    run: Run, records_by_condition: Mapping[Condition, list[Record]], *, version: int, path: Path
) -> list[Prediction]:
    """Predictions of each condition; raises `DatasetError` if no unchanged clip could be decoded."""
    predictions: list[Prediction] = []
    async with open_fleet(run, run.model_path, version=version, is_static=True) as (fleet, _):
        async with starting(run, "engines"):
            await fleet.until_warm()
        for condition, clips in records_by_condition.items():
            asking = Asking(policy_version=version, taxonomy=run.config.data.taxonomy, condition=condition)
            texts = await ask(run, fleet, clips, asking, name=condition)
            run.interrupts.check()
            try:
                require_some_asked(texts)
            except DatasetError as error:
                if condition == "av":
                    raise
                # the answers in the other conditions are kept
                run.progress.say(f"warning: {condition} is left out of the report: {error}")
                continue
            predictions += texts
            write_predictions(path, predictions)
    return predictions


def policy_of(config: OmniConfig, request: EvaluationRequest) -> Policy:
    """The weights that a request names.

    Raises:
        ConfigError: the run or its checkpoint does not exist.
        ModelError: the checkpoint is damaged.
    """
    if request.run is None:
        path = request.model or config.model.path
        if path is None:
            return Policy(path=None, version=0, name="tiny")
        model = Path(path).expanduser().resolve()
        return Policy(path=str(model), version=checkpoint.version_of(model), name=model.name)
    folder = Path(config.run.root) / request.run
    if not folder.is_dir():
        raise ConfigError(
            f"--run must be a run in {config.run.root}, got {request.run!r}; give its name or run.root"
        )
    step = _step_of(folder, request.checkpoint)
    saved = checkpoint.checkpoint_folder(folder, step)
    fault = checkpoint.fault_of(saved)
    if fault is not None:
        raise ModelError(f"a checkpoint must be as it was written, got {saved}: {fault}; choose another")
    version = checkpoint.read_state(saved).policy_version
    return Policy(path=str(saved / "hf"), version=version, name=saved.name)


def _step_of(folder: Path, which: str) -> int:
    steps = [int(path.name.split("_")[1]) for path in checkpoint.checkpoints(folder)]
    available = ", ".join(map(str, sorted(steps))) or "none"
    if which == "best":
        best = checkpoint.read_best(folder)
        if best is None:
            raise ConfigError(
                f"--checkpoint best must be of a run with evaluation.every_checkpoints > 0, got {folder.name!r}, "
                f"whose checkpoints were not evaluated; give last or a step of {available}"
            )
        return best.step
    if which == "last":
        newest = checkpoint.newest_whole(folder)
        if newest is None:
            raise ConfigError(f"--run must have a whole checkpoint, got none in {folder}; let it take a step first")
        return int(newest.name.split("_")[1])
    if not which.isdecimal() or int(which) not in steps:
        raise ConfigError(
            f"--checkpoint must be best, last or a step of {available}, got {which!r}; choose one of these"
        )
    return int(which)


def evaluation_config(config: OmniConfig, policy: Policy, *, name: str) -> OmniConfig:
    """A configuration that only evaluates this policy; raises `ConfigError` without held-out clips."""
    update = {
        "data": _with_written_corpus(config.data, Path(config.run.root) / name.removesuffix(SUFFIX)),
        "run": config.run.model_copy(update={"name": name, "resume": "auto"}),
        "model": config.model.model_copy(update={"path": policy.path}),
        "sft": config.sft.model_copy(update={"steps": 0}),
        "evaluation": config.evaluation.model_copy(
            update={"policies": ("grpo",), "controls": (), "every_checkpoints": 0}
        ),
    }
    return checked(config.model_copy(update=update))


def _with_written_corpus(data: DataConfig, run: Path) -> DataConfig:
    # the run has written its synthetic corpus already
    if not isinstance(data.source, SyntheticDataConfig):
        return data
    corpus = corpus_folder(run, data.source)
    if not (corpus / "corpus.json").exists():
        return data
    # the engines are warmed up on a clip of the training
    train, heldout = (
        R1OmniDataConfig(type="r1_omni", path=str(corpus / f"{split}.json")) for split in ("train", "heldout")
    )
    return data.model_copy(update={"source": train, "heldout": data.heldout or heldout})


def folds_of(config: OmniConfig) -> tuple[int, ...]:
    """The folds of the held-out corpus; those of a mix are evaluated together.

    Raises:
        ConfigError: a corpus has no folds, or those of a mix differ in number.
    """
    heldout = config.data.heldout
    sources = heldout.sources if isinstance(heldout, MixDataConfig) else () if heldout is None else (heldout,)
    without = next((source.type for source in sources if not _num_folds(source)), None)
    if not sources or without is not None:
        raise ConfigError(
            "--every-fold must come with data.heldout of corpora with folds, such as dfew and mafw, got "
            f"{without!r}; leave it out, or choose such corpora"
        )
    if len({_num_folds(source) for source in sources}) > 1:
        numbers = ", ".join(f"{_num_folds(source)} of {source.type}" for source in sources)
        raise ConfigError(
            f"--every-fold must come with corpora of as many folds each, got {numbers}; evaluate them one by one"
        )
    return tuple(range(1, _num_folds(sources[0]) + 1))


def _num_folds(source: AnyCorpusConfig) -> int:
    field = type(source).model_fields.get("fold")
    bounds = (getattr(rule, "le", None) for rule in field.metadata) if field else ()
    return next((bound for bound in bounds if isinstance(bound, int)), 0)


def at_fold(config: OmniConfig, fold: int) -> OmniConfig:
    """The configuration for another fold of its held-out corpus, or of each corpus of its mix."""
    heldout = config.data.heldout
    assert heldout is not None
    update: dict[str, Any] = {"fold": fold}
    if isinstance(heldout, MixDataConfig):
        update = {"sources": tuple(source.model_copy(update=update) for source in heldout.sources)}
    data = config.data.model_copy(update={"heldout": heldout.model_copy(update=update)})
    return checked(config.model_copy(update={"data": data}))


def _heldout(run: Run, folds: Sequence[int]) -> list[Record]:
    """The run's held-out clips, or those of every fold with its number."""
    if not folds:
        return run.corpora.heldout
    heldout: list[Record] = []
    for fold in folds:
        config = at_fold(run.config, fold)
        records = run.corpora.heldout if config == run.config else heldout_clips(config)
        heldout += [replace(record, fold=fold) for record in records]
    return heldout
