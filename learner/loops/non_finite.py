"""Steps whose loss or gradient is not finite: left out, up to so many in a row."""

import logging
from collections.abc import Mapping
from pathlib import Path

from common.errors import NonFiniteError

logger = logging.getLogger(__name__)
REASON = "non-finite"


class NonFiniteGuard:
    """Counts the steps in a row that the ranks did not take."""

    def __init__(self, *, key: str, limit: int) -> None:
        """`key` names the metric that is 1 where a step was not taken; up to `limit` in a row may be left out."""
        self._key, self._limit = key, limit
        self._in_a_row = 0

    def is_taken(self, metrics: Mapping[str, float]) -> bool:
        """Whether the ranks took the step that these metrics are of."""
        is_skipped = bool(metrics.get(self._key, 0.0))
        self._in_a_row = self._in_a_row + 1 if is_skipped else 0
        return not is_skipped

    def check(self, step: int, *, batch: Path) -> None:
        """To be called when a step is in the records; its batch can be looked at in `batch`.

        Raises:
            NonFiniteError: more steps in a row were left out than may be.
        """
        if not self._in_a_row:
            return
        if self._in_a_row > self._limit:
            raise NonFiniteError(
                f"loss and gradient must be finite, and at step {step} they were not for the "
                f"{self._in_a_row}. time in a row; nothing of these steps was taken: look at {batch}, lower the "
                "learning rate, or raise learner.max_non_finite_steps"
            )
        logger.warning("step %d was left out: its loss or gradient was not finite; its batch is %s", step, batch)
