"""Answers to the same clips held against each other: conditions of one run, or two runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.errors import DatasetError
from common.evaluation.assessment import ReadPrediction
from common.evaluation.predictions import AS_GIVEN
from common.evaluation.significance import PairedDifference, paired_difference

Group = tuple[str, str]
"""Dataset and condition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One dataset in one condition, minus another condition or run on the same clips."""

    dataset: str
    condition: str
    against: str
    """The other condition, or the other run."""
    difference: PairedDifference
    """Normalised."""


def grouped(read: Sequence[ReadPrediction]) -> dict[Group, list[ReadPrediction]]:
    """Predictions by dataset and condition, in the order of first occurrence."""
    groups: dict[Group, list[ReadPrediction]] = {}
    for member in read:
        groups.setdefault((member.prediction.dataset, member.prediction.condition), []).append(member)
    return groups


def contributions(read: Sequence[ReadPrediction], *, seed: int = 0) -> list[Comparison]:
    """The difference of each condition from `av`, for each dataset with both.

    Raises:
        DatasetError: the conditions of a dataset differ in clips or labels.
    """
    groups = grouped(read)
    first: dict[str, Group] = {}
    for group in sorted(groups, key=lambda group: group[1] != AS_GIVEN):
        before = first.setdefault(group[0], group)
        _require_same_clips(groups[before], groups[group], what="conditions", names=(before[1], group[1]))
    return [
        Comparison(
            dataset=dataset,
            condition=condition,
            against=AS_GIVEN,
            difference=_difference(members, groups[dataset, AS_GIVEN], seed=seed),
        )
        for (dataset, condition), members in groups.items()
        if condition != AS_GIVEN and (dataset, AS_GIVEN) in groups
    ]


def run_differences(
    first: Sequence[ReadPrediction], second: Sequence[ReadPrediction], *, against: str, seed: int = 0
) -> list[Comparison]:
    """The first run minus the second, for each dataset and condition in both.

    Raises:
        DatasetError: the runs share no dataset and condition, or differ in its clips or labels.
    """
    ours, theirs = grouped(first), grouped(second)
    both = [group for group in ours if group in theirs]
    if not both:
        raise DatasetError(
            f"--compare must have a dataset and condition of the predictions ({_names(ours)}), got "
            f"{_names(theirs)}; give predictions of the same clips"
        )
    for group in both:
        _require_same_clips(ours[group], theirs[group], what="runs", names=("this one", against))
    return [
        Comparison(
            dataset=group[0],
            condition=group[1],
            against=against,
            difference=_difference(ours[group], theirs[group], seed=seed),
        )
        for group in both
    ]


def _difference(
    first: Sequence[ReadPrediction], second: Sequence[ReadPrediction], *, seed: int
) -> PairedDifference:
    other = _by_clip(second)
    return paired_difference(
        [member.label for member in first],
        [member.is_right for member in first],
        [other[_clip(member)].is_right for member in first],
        folds=[member.prediction.fold for member in first],
        seed=seed,
    )


def _require_same_clips(
    first: Sequence[ReadPrediction], second: Sequence[ReadPrediction], *, what: str, names: tuple[str, str]
) -> None:
    ours, theirs = _by_clip(first), _by_clip(second)
    for here, there, name in ((ours, theirs, names[0]), (theirs, ours, names[1])):
        alone = next((member for clip, member in here.items() if clip not in there), None)
        if alone is not None:
            prediction = alone.prediction
            fold = "" if prediction.fold is None else f", fold {prediction.fold},"
            raise DatasetError(
                f"{prediction.place}: two {what} must have the same clips to be compared, got {prediction.id!r} of "
                f"{prediction.dataset}{fold} in {name} alone; ask both, or take it out"
            )
    for clip, member in ours.items():
        if theirs[clip].label != member.label:
            raise DatasetError(
                f"{theirs[clip].prediction.place}: two {what} must have the same labels to be compared, got "
                f"{theirs[clip].label!r} in {names[1]} and {member.label!r} in {names[0]} for "
                f"{member.prediction.id!r}; correct one"
            )


def _clip(read: ReadPrediction) -> tuple[int | None, str]:
    return read.prediction.fold, read.prediction.id


def _by_clip(members: Sequence[ReadPrediction]) -> dict[tuple[int | None, str], ReadPrediction]:
    return {_clip(member): member for member in members}


def _names(groups: Mapping[Group, object]) -> str:
    return ", ".join(f"{dataset} {condition}" for dataset, condition in groups)
