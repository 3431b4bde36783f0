"""Steps whose loss or gradient is not finite: left out, up to a limit in a row."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.errors import NonFiniteError
from common.types import Draw
from learner.ledger import Ledger

logger = logging.getLogger(__name__)


class NonFiniteGuard:
    """Counts the steps in a row that the ranks did not take."""

    def __init__(self, *, key: str, limit: int) -> None:
        """`key` names the metric that is 1 for a step that was not taken; `limit` in a row may be left out."""
        self._key, self._limit = key, limit
        self._in_a_row = 0

    def is_taken(self, metrics: Mapping[str, float]) -> bool:
        """Counts a step by its metrics."""
        is_skipped = bool(metrics.get(self._key, 0.0))
        self._in_a_row = self._in_a_row + 1 if is_skipped else 0
        return not is_skipped

    def settle(self, draws: Iterable[Draw], ledger: Ledger, *, step: int) -> None:
        """Gives the draws of the last counted step their fate."""
        for draw in draws:
            if self._in_a_row:
                ledger.filtered(draw, reason="non-finite", step=step)
            else:
                ledger.trained(draw, step=step)

    def check(self, step: int, *, batch: Path) -> None:
        """Warns of a recorded step that was left out, or raises `NonFiniteError` past the limit."""
        if not self._in_a_row:
            return
        if self._in_a_row > self._limit:
            raise NonFiniteError(
                f"loss and gradient must be finite, got other values at step {step}, {self._in_a_row} times in a "
                f"row; no update was taken in these steps: look at {batch}, lower the learning rate, or raise "
                "learner.max_non_finite_steps"
            )
        logger.warning("step %d was left out: its loss or gradient was not finite; its batch is %s", step, batch)
