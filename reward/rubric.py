"""Weighted sums of rewards. A sum over fewer rewards is never compared with a sum over more.

A reward that does not apply to one completion of a group is left out for the whole group, with all rewards that
depend on it. Advantages are differences within a group, so they stay fair.
"""

import math
from collections.abc import Mapping, Sequence

from common.config.reward import RewardEntry
from common.types import Failure, Score
from reward.request import RewardResult

STD_FLOOR = 1e-6
"""Standard deviation below which all values of a group count as equal and become 0."""


class Rubric:
    """Named rewards with weights, gates and bounds."""

    def __init__(self, entries: Sequence[RewardEntry]) -> None:
        self._entries = _in_order_of_gates(entries)
        self._names = [entry.name for entry in entries]
        self._is_plain = all(not e.gates and e.clip is None and e.normalise == "none" for e in entries)

    def sum(self, columns: Mapping[str, Sequence[RewardResult]]) -> tuple[list[Score] | Failure, tuple[str, ...]]:
        """The scores of a group, and the rewards that do not count in them. A reward without a column failed."""
        used: dict[str, list[float]] = {}
        for entry in self._entries:
            column = columns.get(entry.name)
            if column is None or not entry.gates <= used.keys():
                continue
            values = [result.value for result in column if result.value is not None]
            if len(values) == len(column):
                used[entry.name] = values
        left_out = tuple(name for name in self._names if name not in used)
        if not used:
            why = f"none of {', '.join(self._names)} applies to the whole group"
            return Failure(stage="reward", reason="nothing-applies", detail=why), left_out
        return self._scores(used, columns), left_out

    def _scores(
        self, used: Mapping[str, list[float]], columns: Mapping[str, Sequence[RewardResult]]
    ) -> list[Score] | Failure:
        worth = used if self._is_plain else self._shaped(used)
        weighted = [(entry.weight, worth[entry.name]) for entry in self._entries if entry.name in used]
        names = [name for name in self._names if name in used]
        scores: list[Score] = []
        for index in range(len(worth[names[0]])):
            # not `sum`, which rounds differently since Python 3.12
            total = 0.0
            for weight, values in weighted:
                total += weight * values[index]
            if not math.isfinite(total):
                return Failure(stage="reward", reason="sum-not-finite", detail=f"the weighted sum is {total}")
            results = {name: columns[name][index] for name in names}
            scores.append(
                Score(
                    total=total,
                    breakdown={name: used[name][index] for name in names},
                    details={name: r.detail for name, r in results.items() if r.detail},
                    facts={f"{name}/{key}": v for name, r in results.items() for key, v in (r.facts or {}).items()},
                )
            )
        return scores

    def _shaped(self, used: Mapping[str, list[float]]) -> dict[str, list[float]]:
        """The values that are weighted. A gate is open if its value is not 0 and its own gate is open."""
        worth: dict[str, list[float]] = {}
        is_open: dict[str, list[bool]] = {}
        for entry in self._entries:
            if entry.name not in used:
                continue
            raw = used[entry.name]
            values = _normalised(entry, raw)
            worth[entry.name] = [_gated(entry, value, is_open, index) for index, value in enumerate(values)]
            needed = is_open[entry.requires] if entry.requires else [True] * len(raw)
            is_open[entry.name] = [value != 0 and need for value, need in zip(raw, needed, strict=True)]
        return worth


def _in_order_of_gates(entries: Sequence[RewardEntry]) -> list[RewardEntry]:
    """Each reward after those that it depends on; the configuration has refused circles."""
    by_name = {entry.name: entry for entry in entries}

    def depth(entry: RewardEntry) -> int:
        return 1 + max((depth(by_name[gate]) for gate in entry.gates), default=0)

    return sorted(entries, key=depth)


def _normalised(entry: RewardEntry, values: list[float]) -> list[float]:
    if entry.clip is not None:
        low, high = entry.clip
        values = [min(max(value, low), high) for value in values]
        if entry.normalise == "unit":
            return [(value - low) / (high - low) for value in values]
    if entry.normalise == "group":
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        return [(value - mean) / std if std > STD_FLOOR else 0.0 for value in values]
    return values


def _gated(entry: RewardEntry, value: float, is_open: Mapping[str, list[bool]], index: int) -> float:
    """The value behind a gate: 0 if the gate is closed, and limited by the caps of closed gates."""
    if entry.requires is not None and not is_open[entry.requires][index]:
        return 0.0
    return min([value, *(cap for name, cap in entry.caps.items() if not is_open[name][index])])
