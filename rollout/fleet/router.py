"""The choice of the engine for the next request, as a pure function."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """The requests of one serving engine."""

    name: str
    num_sequences: int
    """Sequences of its unanswered requests."""
    limit: int
    """Sequences above which the engine gets no further request, unless it has none."""

    def has_room(self, num_sequences: int) -> bool:
        return not self.num_sequences or self.num_sequences + num_sequences <= self.limit


def choose(loads: Sequence[Load], *, num_sequences: int, previous: str | None, turn: int) -> Load | None:
    """The engine with the least outstanding work; None while no engine has room.

    Args:
        num_sequences: of the request.
        previous: the engine that had the same clip before, whose caches may still hold it. It is chosen if it has
            no more work than the least busy engine and one request.
        turn: the first engine that ties prefer. An engine that fails fast would otherwise get every request.
    """
    order = [loads[(turn + offset) % len(loads)] for offset in range(len(loads))]
    fitting = [load for load in order if load.has_room(num_sequences)]
    if not fitting:
        return None
    least = min(fitting, key=lambda load: load.num_sequences)
    same = next((load for load in fitting if load.name == previous), None)
    if same is not None and same.num_sequences <= least.num_sequences + num_sequences:
        return same
    return least
