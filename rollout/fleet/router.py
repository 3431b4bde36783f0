"""The choice of the engine for the next request, as plain bookkeeping without a clock, asyncio or Ray."""

from collections import defaultdict


class Router:
    """The outstanding work of engines, and which of them gets the next request.

    Engines are kept by their number of sequences, so that a choice does not look at all of them.
    """

    def __init__(self, *, limit: int) -> None:
        """`limit`: sequences above which an engine gets no further request, unless it has none."""
        self._limit = limit
        self._sequences: dict[str, int] = {}
        """Sequences of unanswered requests, of every engine that is known."""
        self._open: dict[int, dict[str, None]] = defaultdict(dict)
        """Engines that may be chosen, by their number of sequences; of equals the first has waited longest."""

    def __contains__(self, name: str) -> bool:
        return name in self._sequences

    def num_sequences(self, name: str) -> int:
        return self._sequences[name]

    def is_open(self, name: str) -> bool:
        return name in self._sequences and name in self._open.get(self._sequences[name], ())

    def open(self, name: str) -> None:
        """The engine may be chosen; one that is not known has no requests."""
        if not self.is_open(name):
            self._open[self._sequences.setdefault(name, 0)][name] = None

    def close(self, name: str) -> None:
        """The engine is not chosen until it is opened again; its requests still count."""
        if self.is_open(name):
            self._leave(name)

    def remove(self, name: str) -> None:
        self.close(name)
        self._sequences.pop(name, None)

    def add(self, name: str, num_sequences: int) -> None:
        """The engine got a request, or with a negative number has answered one."""
        is_open = self.is_open(name)
        self.close(name)
        self._sequences[name] += num_sequences
        if is_open:
            self.open(name)

    def least(self) -> str | None:
        """The open engine with the least outstanding work.

        Among equals it is the one that has had this much work for longest: an engine that fails fast would
        otherwise get every request.
        """
        return next(iter(self._open[min(self._open)])) if self._open else None

    def choose(self, *, num_sequences: int, previous: str | None = None) -> str | None:
        """The open engine with the least outstanding work; None while no engine has room.

        Args:
            num_sequences: of the request.
            previous: the engine that had the same clip before, whose caches may still hold it. It is chosen if it
                has no more work than the least busy engine and one request.
        """
        least = self.least()
        if least is None or not self.has_room(least, num_sequences):
            return None
        if previous is None or not self.is_open(previous) or not self.has_room(previous, num_sequences):
            return least
        return previous if self._sequences[previous] <= self._sequences[least] + num_sequences else least

    def has_room(self, name: str, num_sequences: int) -> bool:
        present = self._sequences[name]
        return not present or present + num_sequences <= self._limit

    def _leave(self, name: str) -> None:
        equals = self._open[self._sequences[name]]
        del equals[name]
        if not equals:
            del self._open[self._sequences[name]]
