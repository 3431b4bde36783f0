"""The prompt stream: seeded, endless, and resumable from its cursor and the draws that were handed back."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import blake3

from common.types import Draw, Record


class PromptStream:
    """Every record once per epoch, in a new order each epoch; draws that were handed back come first.

    `vary` returns a record as it is asked in an epoch. `cursor` counts the new draws; with the seed and
    `handed_back` it is the whole position.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        seed: int,
        cursor: int = 0,
        vary: Callable[[Record, int], Record] | None = None,
    ) -> None:
        self._records = list(records)
        self._vary = vary
        self._seed = seed
        self.cursor = cursor
        self._epoch: int = -1
        self._order: list[int] = []
        self._returned: deque[Draw] = deque()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def handed_back(self) -> list[Draw]:
        """Draws that were handed back and not returned again, in order."""
        return list(self._returned)

    def next(self) -> Draw:
        if self._returned:
            return self._returned.popleft()
        draw = self._at(self.cursor)
        self.cursor += 1
        return draw

    def peek(self, count: int) -> list[Record]:
        """Records of the next new draws, which stay in the stream."""
        return [self._at(self.cursor + i).record for i in range(count)]

    def ask_again(self, draws: Sequence[tuple[int, int]]) -> None:
        """Hands back draws that a run left without a fate: (position, draw), with their seeds."""
        self._returned.extend(replace(self._at(position), draw=draw) for position, draw in draws)

    def redraw(self, draw: Draw) -> None:
        """Hands back a draw's prompt as its next draw, which has another seed."""
        self._returned.append(replace(draw, draw=draw.draw + 1))

    def _at(self, cursor: int) -> Draw:
        epoch, offset = divmod(cursor, len(self._records))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._records)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        record = self._records[self._order[offset]]
        return Draw(
            epoch=epoch, record=self._vary(record, epoch) if self._vary else record, draw=0, position=cursor
        )


def group_seed(run_seed: int, draw: Draw) -> int:
    """Seed of a draw's group in [0, 2^62): the same after a fault, another for another draw of the same prompt."""
    # a hash, no counter: completion i samples with seed + i
    text = f"{run_seed}/{draw.key}".encode()
    return int.from_bytes(blake3.blake3(text).digest(length=8), "little") % 2**62
