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
    for one in read:
        groups.setdefault((one.prediction.dataset, one.prediction.condition), []).append(one)
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
        [one.label for one in first],
        [one.is_right for one in first],
        [other[_clip(one)].is_right for one in first],
        folds=[one.prediction.fold for one in first],
        seed=seed,
    )


def _require_same_clips(
    first: Sequence[ReadPrediction], second: Sequence[ReadPrediction], *, what: str, names: tuple[str, str]
) -> None:
    ours, theirs = _by_clip(first), _by_clip(second)
    for here, there, name in ((ours, theirs, names[0]), (theirs, ours, names[1])):
        alone = next((one for clip, one in here.items() if clip not in there), None)
        if alone is not None:
            said = alone.prediction
            fold = "" if said.fold is None else f", fold {said.fold},"
            raise DatasetError(
                f"{said.place}: two {what} must have the same clips to be compared, got {said.id!r} of "
                f"{said.dataset}{fold} in {name} alone; ask both, or take it out"
            )
    for clip, one in ours.items():
        if theirs[clip].label != one.label:
            raise DatasetError(
                f"{theirs[clip].prediction.place}: two {what} must have the same labels to be compared, got "
                f"{theirs[clip].label!r} in {names[1]} and {one.label!r} in {names[0]} for {one.prediction.id!r}; "
                "mend one"
            )


def _clip(one: ReadPrediction) -> tuple[int | None, str]:
    return one.prediction.fold, one.prediction.id


def _by_clip(members: Sequence[ReadPrediction]) -> dict[tuple[int | None, str], ReadPrediction]:
    return {_clip(one): one for one in members}


def _names(groups: Mapping[Group, object]) -> str:
    return ", ".join(f"{dataset} {condition}" for dataset, condition in groups)
