"""An evaluation of its own: a checkpoint is asked the held-out clips, in one condition after the other.

It consumes held-out records and produces predictions. It has a folder beside the run's, with the run's name and
`-evaluation`: the run itself is neither held nor changed, and may go on training.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from common.config.data import DataConfig, R1OmniDataConfig, SyntheticDataConfig
from common.config.load import checked
from common.config.run import OmniConfig
from common.datasets.synthetic import corpus_folder
from common.errors import ConfigError, DatasetError, ModelError
from common.evaluation.controls import Condition, asked_as
from common.evaluation.predictions import Prediction
from common.evaluation.report import Report, make_report
from common.labels import TAXONOMIES
from common.types import Record
from deploy.judging import ask, warm_up
from deploy.preflight import load_corpora
from deploy.progress import Progress
from deploy.wiring import Run, open_engines, open_run
from learner import checkpoint
from learner.evaluation import JudgedClip, judgement_of

SUFFIX = "-evaluation"
"""Of the folder beside a run's."""
SPLITS = ("train", "heldout")
"""Of a written corpus: the first for the engines' warm-up, the second to be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What is to be asked of which policy."""

    model: str | None
    """A checkpoint's folder."""
    run: str | None
    """The name of the run whose policy is asked; with neither, the configured model is."""
    checkpoint: str
    """Of that run: `best`, `last` or a step."""
    conditions: tuple[Condition, ...]
    every_fold: bool
    name: str | None
    """Of the report; None for that of the policy."""
    seed: int
    """Of the resampling and of swapped sounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Weights to ask."""

    path: str | None
    """A checkpoint's folder; None builds the tiny model."""
    version: int
    name: str


async def evaluate(config: OmniConfig, request: EvaluationRequest) -> tuple[Report, Path]:
    """Asks a policy and scores what it says.

    Args:
        config: with the held-out clips, and the engines to ask on.
        request: what is asked of which policy.

    Returns:
        The report, and the folder that its own belongs into.

    Raises:
        UserError: before any engine starts.
    """
    policy = await asyncio.to_thread(policy_of, config, request)
    chosen = evaluation_config(config, policy, name=f"{request.run or config.run.name}{SUFFIX}")
    folds = folds_of(chosen) if request.every_fold else ()
    async with open_run(chosen, Progress(Console(stderr=True))) as run:
        records = await asyncio.to_thread(_heldout, run, folds)
        classes = TAXONOMIES[chosen.data.taxonomy]
        # before any engine starts: not every clip can be asked in every condition
        asked: dict[Condition, list[Record]] = {
            condition: asked_in_groups(records, condition, classes=classes, seed=request.seed)
            for condition in request.conditions
        }
        predictions = await _answers(run, asked, version=policy.version)
    report = make_report(predictions, name=request.name or policy.name, sources=[run.model_path], seed=request.seed)
    return report, Path(chosen.run.root) / (request.run or chosen.run.name) / "eval"


async def _answers(run: Run, asked: Mapping[Condition, list[Record]], *, version: int) -> list[Prediction]:
    """What the policy says in each condition, all on the same engines.

    Raises:
        DatasetError: not one clip could be asked as it is given.
    """
    predictions: list[Prediction] = []
    async with open_engines(run, run.model_path, version=version) as engines:
        await warm_up(run, engines, phase="engines")
        for condition, clips in asked.items():
            judged = await ask(run, engines, clips, name=condition)
            run.interrupts.check()
            try:
                judgement_of(judged, policy=condition, policy_version=version)
            except DatasetError as error:
                if condition == "av":
                    raise
                # what was said in the other conditions is worth keeping
                run.progress.say(f"warning: {condition} is left out of the report: {error}")
                continue
            predictions += predictions_of(
                clips, judged, condition=condition, version=version, taxonomy=run.config.data.taxonomy
            )
    return predictions


def policy_of(config: OmniConfig, request: EvaluationRequest) -> Policy:
    """The weights that a request names.

    Raises:
        ConfigError: the run or its checkpoint is not there.
        ModelError: a checkpoint is not whole.
    """
    if request.run is None:
        path = request.model or config.model.path
        resolved = None if path is None else str(Path(path).expanduser().resolve())
        return Policy(path=resolved, version=0, name=Path(resolved).name if resolved else "tiny")
    folder = Path(config.run.root) / request.run
    if not folder.is_dir():
        raise ConfigError(
            f"--run must be a run in {config.run.root}, got {request.run!r}; give its name or run.root"
        )
    step = _step_of(folder, request.checkpoint)
    chosen = checkpoint.checkpoint_folder(folder, step)
    fault = checkpoint.fault_of(chosen)
    if fault is not None:
        raise ModelError(f"a checkpoint must be as it was written, got {chosen}: {fault}; choose another")
    version = checkpoint.read_state(chosen).policy_version
    return Policy(path=str(chosen / "hf"), version=version, name=f"step_{step:06d}")


def _step_of(folder: Path, which: str) -> int:
    """Of a checkpoint that is there."""
    steps = [int(path.name.split("_")[1]) for path in checkpoint.checkpoints(folder)]
    there = ", ".join(map(str, sorted(steps))) or "none"
    if which == "best":
        best = checkpoint.read_best(folder)
        if best is None:
            raise ConfigError(
                f"--checkpoint best must be of a run with evaluation.every_checkpoints > 0, got {folder.name!r}, "
                f"whose checkpoints were not judged; give last or a step of {there}"
            )
        return best.step
    if which == "last":
        newest = checkpoint.newest_whole(folder)
        if newest is None:
            raise ConfigError(f"--run must have a whole checkpoint, got none in {folder}; let it take a step first")
        return int(newest.name.split("_")[1])
    if not which.isdecimal() or int(which) not in steps:
        raise ConfigError(
            f"--checkpoint must be best, last or a step of {there}, got {which!r}; choose one of these"
        )
    return int(which)


def evaluation_config(config: OmniConfig, policy: Policy, *, name: str) -> OmniConfig:
    """A configuration that asks this policy the held-out clips, and does nothing else.

    Args:
        config: of a run.
        policy: that is asked.
        name: of the evaluation's folder under run.root.

    Raises:
        ConfigError: it has no held-out clips.
    """
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
    """Takes a synthetic corpus from where the run has written it: it need not be written again."""
    if not isinstance(data.source, SyntheticDataConfig):
        return data
    corpus = corpus_folder(run, data.source)
    if not (corpus / "corpus.json").exists():
        return data
    files = {split: R1OmniDataConfig(type="r1_omni", path=str(corpus / f"{split}.json")) for split in SPLITS}
    return data.model_copy(update={"source": files["train"], "heldout": data.heldout or files["heldout"]})


def folds_of(config: OmniConfig) -> tuple[int, ...]:
    """The folds that the held-out corpus has.

    Raises:
        ConfigError: it has none.
    """
    heldout = config.data.heldout
    field = None if heldout is None else type(heldout).model_fields.get("fold")
    last = next((rule.le for rule in field.metadata if hasattr(rule, "le")), None) if field else None
    if not isinstance(last, int):
        raise ConfigError(
            "--every-fold must come with data.heldout of a corpus with folds, such as dfew or mafw, got "
            f"{heldout.type if heldout else None!r}; leave it out, or choose such a corpus"
        )
    return tuple(range(1, last + 1))


def at_fold(config: OmniConfig, fold: int) -> OmniConfig:
    """The configuration with another fold of its held-out corpus."""
    heldout = config.data.heldout
    assert heldout is not None
    data = config.data.model_copy(update={"heldout": heldout.model_copy(update={"fold": fold})})
    return checked(config.model_copy(update={"data": data}))


def predictions_of(
    clips: Sequence[Record], judged: Sequence[JudgedClip], *, condition: Condition, version: int, taxonomy: str
) -> list[Prediction]:
    """What was said, as it is kept.

    Args:
        clips: as they were asked.
        judged: in the same order.
        condition: that they were asked in.
        version: of the policy.
        taxonomy: of labels that do not say theirs.
    """
    return [
        Prediction(
            id=record.prompt_id,
            dataset=record.dataset,
            fold=record.fold,
            label=record.label,
            labels=record.labels,
            taxonomy=taxonomy if record.taxonomy == "open" else record.taxonomy,
            text=said.text,
            video=record.clip.video_path,
            audio=record.clip.audio_path,
            policy_version=version,
            condition=condition,
            failure=said.failure,
        )
        for record, said in zip(clips, judged, strict=True)
    ]


def _heldout(run: Run, folds: Sequence[int]) -> list[Record]:
    """The run's held-out clips; those of every fold where folds are given, each with its fold."""
    if not folds:
        return run.corpora.heldout
    found: list[Record] = []
    for fold in folds:
        corpora = load_corpora(at_fold(run.config, fold), run.folder, on_clip=lambda done, total: None)
        found += [replace(record, fold=fold) for record in corpora.heldout]
    return found


def asked_in_groups(
    records: Sequence[Record], condition: Condition, *, classes: Sequence[str] | None, seed: int
) -> list[Record]:
    """Clips in a condition, in their order; sounds are swapped within a dataset and fold.

    Raises:
        DatasetError: as `asked_as` does.
    """
    groups: dict[tuple[str, int | None], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.dataset, record.fold), []).append(index)
    asked = list(records)
    for members in groups.values():
        changed = asked_as([records[i] for i in members], condition, classes=classes, seed=seed)
        for index, record in zip(members, changed, strict=True):
            asked[index] = record
    return asked
