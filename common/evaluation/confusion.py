"""The confusion table of labels and answers, and the shares computed from it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.evaluation.bootstrap import NUM_RESAMPLES, Estimate, interval, resampled

OTHER = "other or none"
"""The last column: an answer outside the classes, or no answer."""
MAX_CLASSES = 48
"""Most classes of a table that is drawn or written in full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """Counts of labels and answers."""

    classes: tuple[str, ...]
    """K of them."""
    cells: Mapping[tuple[int, int], int]
    """Clips by label and answer, where there are any: positions in `classes`, K for an answer of `OTHER`."""

    @property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """[K, K + 1]: every cell; of at most `MAX_CLASSES` classes."""
        size = len(self.classes)
        assert size <= MAX_CLASSES
        return tuple(tuple(self.cells.get((i, j), 0) for j in range(size + 1)) for i in range(size))

    @property
    def num_clips(self) -> int:
        return sum(self.cells.values())

    @property
    def support(self) -> dict[str, int]:
        """Clips by class, without empty classes."""
        sums = Counter[int]()
        for (row, _), count in self.cells.items():
            sums[row] += count
        return {self.classes[row]: sums[row] for row in sorted(sums)}

    @property
    def recall(self) -> dict[str, float]:
        """Recall by class, without empty classes."""
        support = self.support
        return {
            name: self.cells.get((i, i), 0) / support[name]
            for i, name in enumerate(self.classes)
            if name in support
        }

    @property
    def num_other(self) -> int:
        """Answers outside the classes, and missing answers."""
        return sum(count for (_, column), count in self.cells.items() if column == len(self.classes))


def confusion_of(
    labels: Sequence[str], answers: Sequence[str | None], *, classes: Sequence[str] | None = None
) -> Confusion:
    """Counts clips by label and answer; `classes` gives the order, by default the sorted labels.

    Raises:
        ValueError: there are no clips, a label is not a class, or the lengths differ.
    """
    if not labels:
        raise ValueError("an evaluation must have clips, got none")
    names = tuple(sorted(set(labels)) if classes is None else classes)
    index = {name: i for i, name in enumerate(names)}
    strange = next((label for label in labels if label not in index), None)
    if strange is not None:
        raise ValueError(f"a label must be one of {', '.join(names)}, got {strange!r}")
    none, cells = len(names), Counter[tuple[int, int]]()
    for label, answer in zip(labels, answers, strict=True):
        cells[index[label], none if answer is None else index.get(answer, none)] += 1
    return Confusion(classes=names, cells=dict(cells))


def total(confusions: Sequence[Confusion]) -> Confusion:
    """The sum of several tables of the same classes."""
    summed = Counter[tuple[int, int]]()
    for confusion in confusions:
        summed.update(confusion.cells)
    return Confusion(classes=confusions[0].classes, cells=dict(summed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Recognition of labels; all values are fractions."""

    war: Estimate
    """Weighted average recall: the share of clips answered right, which is accuracy."""
    uar: Estimate
    """Unweighted average recall: the mean of the recalls of the classes that occur among the labels."""
    macro_f1: Estimate
    """Mean over the same classes of 2 TP / (2 TP + FP + FN); FP are clips of the other classes."""


def scores_of(confusions: Sequence[Confusion], *, seed: int = 0) -> Scores:
    """WAR, UAR and macro F1 of a table; of several folds, the mean of their values.

    The intervals are percentiles of a bootstrap over clips, within each fold.
    """
    rng = np.random.default_rng(seed)
    values = np.mean([shares_of(confusion) for confusion in confusions], axis=0)
    resamples = np.mean([_resampled(confusion, rng) for confusion in confusions], axis=0)
    war, uar, macro_f1 = (interval(v, r) for v, r in zip(values, resamples, strict=True))
    return Scores(war=war, uar=uar, macro_f1=macro_f1)


def shares_of(confusion: Confusion) -> tuple[float, float, float]:
    """WAR, UAR and macro F1, without intervals."""
    cells = _Cells(confusion)
    war, uar, macro_f1 = cells.shares(cells.counts[None])[:, 0]
    return float(war), float(uar), float(macro_f1)


def _resampled(confusion: Confusion, rng: np.random.Generator) -> np.ndarray:
    """float64 [3, resamples]."""
    cells = _Cells(confusion)
    chunks = resampled(cells.counts, rng=rng, num=NUM_RESAMPLES)
    return np.concatenate([cells.shares(chunk) for chunk in chunks], axis=1)


class _Cells:
    # a resample never fills an empty cell

    def __init__(self, confusion: Confusion) -> None:
        cells = sorted(confusion.cells)
        rows, columns = np.array(cells, dtype=np.int64).T
        self.counts = np.array([confusion.cells[cell] for cell in cells], dtype=np.int64)
        """int64 [cells]"""
        occurring, row_of = np.unique(rows, return_inverse=True)
        num_classes = len(occurring)
        position = np.full(len(confusion.classes) + 1, num_classes)
        position[occurring] = np.arange(num_classes)
        self._num_classes, self._row_of, self._column_of = num_classes, row_of, position[columns]
        self._is_right = rows == columns

    def shares(self, counts: np.ndarray) -> np.ndarray:
        """WAR, UAR and macro F1 of each draw: float64 [3, draws] of int64 [draws, cells].

        A class without a clip in a draw does not count in that draw's means.
        """
        support = self._summed(counts, self._row_of)
        right = self._summed(counts * self._is_right, self._row_of)
        answered = self._summed(counts, self._column_of)
        is_there = support > 0
        num_there = is_there.sum(axis=1)
        recalls = np.divide(right, support, out=np.zeros(right.shape), where=is_there)
        # 2 TP + FP + FN is what was labelled so and what was answered so
        f1s = np.divide(2 * right, support + answered, out=np.zeros(right.shape), where=is_there)
        return np.stack(
            [right.sum(axis=1) / counts.sum(axis=1), recalls.sum(axis=1) / num_there, f1s.sum(axis=1) / num_there]
        )

    def _summed(self, counts: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """int64 [draws, classes]: the sum of the cells of each class, without cells past the last class."""
        order = np.argsort(owner, kind="stable")
        present, starts = np.unique(owner[order], return_index=True)
        sums = np.zeros((len(counts), self._num_classes + 1), dtype=np.int64)
        sums[:, present] = np.add.reduceat(counts[:, order], starts, axis=1)
        return sums[:, : self._num_classes]
