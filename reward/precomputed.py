"""Outcomes of a group that were computed before the reward service sums them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from reward.outcome import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedOutcomes:
    outcomes: tuple[Outcome, ...]
    """[completions]"""
    seconds: float


NOTHING: Mapping[str, PrecomputedOutcomes] = MappingProxyType({})


def columns_of(
    precomputed: Mapping[str, PrecomputedOutcomes], *, names: Sequence[str], count: int
) -> tuple[dict[str, list[Outcome]], dict[str, float]]:
    """Outcomes and seconds by reward, checked to be those of `names` for `count` completions."""
    assert precomputed.keys() == set(names), f"precomputed must be {sorted(names)}, got {sorted(precomputed)}"
    assert all(len(reward.outcomes) == count for reward in precomputed.values()), "one outcome per completion"
    outcomes = {name: list(precomputed[name].outcomes) for name in names}
    return outcomes, {name: precomputed[name].seconds for name in names}
