"""Scores of predictions by dataset, condition and fold: exact, and by the table of labels.

Exact is the paper's accuracy: the answer's text equals the label's. Normalised accuracy reads both with
`common.labels`: "Anger." and "angry" are one class; an answer with no class of the taxonomy, or several, is wrong.
Open labels are scored by the wheel, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.errors import DatasetError
from common.evaluation.confusion import Confusion, Scores, confusion_of, scores_of, total
from common.evaluation.predictions import Prediction
from common.evaluation.wheel import WheelScores, wheel_scores
from common.labels import TAXONOMIES, answer_block, has_form, normalised, readable_answer


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldScores:
    """The normalised scores of one fold."""

    fold: int
    num_clips: int
    scores: Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """One dataset in one condition; rates are shares of its clips."""

    dataset: str
    condition: str
    taxonomy: str
    num_clips: int
    num_failed: int
    """Clips without an answer because of a failure; they count as wrong."""
    policy_versions: tuple[int, ...]
    """That answered; more than one means that weights moved in between."""
    form_rate: float
    """Completions in the paper's whole form."""
    unparsed_rate: float
    """Completions with no answer to read: no filled `<answer>` block, and not a bare class either."""
    out_of_vocabulary_rate: float | None
    """Answers that were read and name no class of the taxonomy, or several; None where any word is a class."""
    normalised: Scores
    """The mean over folds where there are several."""
    exact: Scores
    """Likewise, to the letter."""
    wheel: WheelScores | None
    """Scores of open labels."""
    folds: tuple[FoldScores, ...]
    """Empty where the predictions name none."""
    confusion: Confusion
    """Normalised, of all folds together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPrediction:
    """A prediction with its classes."""

    prediction: Prediction
    label: str
    """The class of its label."""
    answer: str | None
    """The class that was answered; None for none or several."""
    is_parsed: bool

    @property
    def is_right(self) -> bool:
        return self.answer == self.label


def assess(predictions: Sequence[Prediction], *, taxonomy: str | None = None, seed: int = 0) -> list[Assessment]:
    """Scores every dataset in every condition, in the order of their first prediction.

    `taxonomy` is a key of `TAXONOMIES`; None for that of each prediction, or of its dataset's name.

    Raises:
        DatasetError: a label is not in its taxonomy, no taxonomy is known, or a group has several.
    """
    groups: dict[tuple[str, str], list[Prediction]] = {}
    for prediction in predictions:
        groups.setdefault((prediction.dataset, prediction.condition), []).append(prediction)
    return [
        _assessment(group, taxonomy=_taxonomy_of(group, taxonomy), seed=seed, dataset=dataset, condition=condition)
        for (dataset, condition), group in groups.items()
    ]


def read_all(predictions: Iterable[Prediction], *, taxonomy: str | None = None) -> list[ReadPrediction]:
    """Raises `DatasetError` as `assess` does."""
    return [read_one(p, taxonomy=_taxonomy_of([p], taxonomy)) for p in predictions]


def read_one(prediction: Prediction, *, taxonomy: str) -> ReadPrediction:
    """Raises `DatasetError` if the label is not in the taxonomy."""
    label = normalised(prediction.label, taxonomy)
    if label is None and TAXONOMIES[taxonomy] is None:
        label = prediction.label.strip().lower()
    if label is None:
        classes = ", ".join(TAXONOMIES[taxonomy] or ())
        raise DatasetError(
            f"{prediction.place or prediction.id}: a label must be of the taxonomy {taxonomy} ({classes}), got "
            f"{prediction.label!r}; correct it or give another --taxonomy"
        )
    answer_text = readable_answer(prediction.text)
    answer = normalised(answer_text, taxonomy) if answer_text else None
    if answer is None and answer_text and TAXONOMIES[taxonomy] is None and answer_text.lower() == label:
        answer = label
    has_block = answer_block(prediction.text) is not None
    return ReadPrediction(
        prediction=prediction,
        label=label,
        answer=answer,
        is_parsed=bool(answer_text) and (has_block or answer is not None),
    )


def verbatim_answer(text: str) -> str:
    """The first `<answer>` within one line, or the whole text; stripped, as R1-Omni's accuracy reward does
    (`grpo.py`).
    """
    for line in text.split("\n"):
        block = answer_block(line)
        if block is not None:
            return block
    return text.strip()


def _taxonomy_of(group: Sequence[Prediction], configured: str | None) -> str:
    names = (
        {configured: ""} if configured is not None else {p.taxonomy or p.dataset.lower(): p.place for p in group}
    )
    if len(names) > 1:
        raise DatasetError(
            f"{group[0].place}: the clips of one dataset must have one taxonomy, got {', '.join(sorted(names))} of "
            f"{group[0].dataset}; give one with --taxonomy"
        )
    ((name, place),) = names.items()
    if name not in TAXONOMIES:
        raise DatasetError(
            f"{place or '--taxonomy'}: a taxonomy must be one of {', '.join(TAXONOMIES)}, got {name!r}; give the "
            "labels' with --taxonomy"
        )
    return name


def _assessment(
    group: Sequence[Prediction], *, taxonomy: str, seed: int, dataset: str, condition: str
) -> Assessment:
    read = [read_one(prediction, taxonomy=taxonomy) for prediction in group]
    by_fold: dict[int | None, list[ReadPrediction]] = {}
    for item in read:
        by_fold.setdefault(item.prediction.fold, []).append(item)
    if None in by_fold and len(by_fold) > 1:
        place = by_fold[None][0].prediction.place
        raise DatasetError(
            f"{place}: all clips of a dataset must have a fold, or none, got null beside numbers; fill it in"
        )
    classes = _classes(read, taxonomy)
    tables = {fold: _table(members, classes) for fold, members in by_fold.items()}
    num, is_open = len(read), TAXONOMIES[taxonomy] is None
    num_unparsed = sum(not item.is_parsed for item in read)
    num_strange = sum(item.is_parsed and item.answer is None for item in read)
    return Assessment(
        dataset=dataset,
        condition=condition,
        taxonomy=taxonomy,
        num_clips=num,
        num_failed=sum(p.failure is not None for p in group),
        policy_versions=tuple(sorted({p.policy_version for p in group if p.policy_version is not None})),
        form_rate=sum(has_form(p.text) for p in group) / num,
        unparsed_rate=num_unparsed / num,
        out_of_vocabulary_rate=None if is_open else num_strange / num,
        normalised=scores_of([tables[fold] for fold in _in_order(tables)], seed=seed),
        exact=scores_of([_verbatim_table(by_fold[fold]) for fold in _in_order(by_fold)], seed=seed),
        wheel=wheel_scores([(p.labels or (p.label,), p.text) for p in group]) if is_open else None,
        folds=tuple(
            FoldScores(fold=fold, num_clips=tables[fold].num_clips, scores=scores_of([tables[fold]], seed=seed))
            for fold in _in_order(tables)
            if fold is not None
        ),
        confusion=total(list(tables.values())),
    )


def _in_order(folds: Iterable[int | None]) -> list[int | None]:
    return sorted(folds, key=lambda fold: -1 if fold is None else fold)


def _classes(read: Sequence[ReadPrediction], taxonomy: str) -> tuple[str, ...]:
    """The taxonomy's classes in order; the labels in the data if it has none or lacks some of them."""
    known = TAXONOMIES[taxonomy]
    return tuple(sorted({prediction.label for prediction in read})) if known is None else known


def _table(members: Sequence[ReadPrediction], classes: Sequence[str]) -> Confusion:
    return confusion_of(
        [member.label for member in members], [member.answer for member in members], classes=classes
    )


def _verbatim_table(members: Sequence[ReadPrediction]) -> Confusion:
    predictions = [member.prediction for member in members]
    labels = [verbatim_answer(p.label) for p in predictions]
    return confusion_of(labels, [verbatim_answer(p.text) for p in predictions])
