"""The prompt stream: seeded, endless, and resumable from two numbers."""

import random
from collections.abc import Sequence

import blake3

from common.types import Draw, Record


class PromptStream:
    """Every record once per epoch, in an order of its own.

    Attributes:
        cursor: draws given out so far; with the seed it says everything about the position.
    """

    def __init__(self, records: Sequence[Record], *, seed: int, cursor: int = 0) -> None:
        self._records = list(records)
        self._seed = seed
        self.cursor = cursor
        self._epoch: int = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._records)

    def take(self, count: int) -> list[Draw]:
        """The next draws."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Draw:
        epoch, offset = divmod(self.cursor, len(self._records))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._records)))
            random.Random(f"{self._seed}/{epoch}").shuffle(self._order)
        self.cursor += 1
        return Draw(epoch=epoch, record=self._records[self._order[offset]], draw=0)


def group_seed(run_seed: int, draw: Draw) -> int:
    """Seed of a draw's group in [0, 2^62): a hash, as the sampler gives completion i the seed + i.

    The same after a fault, another for another draw of the same prompt.
    """
    text = f"{run_seed}/{draw.key}".encode()
    return int.from_bytes(blake3.blake3(text).digest(length=8), "little") % 2**62
