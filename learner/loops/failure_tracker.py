"""Failed draws: each is a reason in the ledger, and the run stops when every clip of the corpus has failed."""

import logging
from collections.abc import Mapping

from common.errors import DatasetError
from common.types import Draw, Failure
from learner.ledger import Ledger

logger = logging.getLogger(__name__)


class FailureTracker:
    """Counts the clips that failed since the last success, and stops the run when every clip has."""

    def __init__(self, ledger: Ledger, *, num_prompts: int, rule: str, remedies: Mapping[str, str]) -> None:
        self._ledger, self._num_prompts = ledger, num_prompts
        self._rule, self._remedies = rule, remedies
        self._failed: set[str] = set()

    def succeeded(self) -> None:
        self._failed.clear()

    def failed(self, draw: Draw, failure: Failure) -> None:
        """Records a draw's failure; raises `DatasetError` when every clip has failed."""
        logger.warning("draw %s failed: %s: %s", draw.key, failure.reason, failure.detail)
        self._ledger.failed(draw, failure)
        self._failed.add(draw.record.prompt_id)
        # failures return sooner than groups: fewer in a row mean little
        if len(self._failed) >= self._num_prompts:
            self._ledger.commit()
            message = only_failures(self._rule, self._ledger.failures, self._remedies)
            raise DatasetError(f"{message}; see {self._ledger.path}")


def only_failures(rule: str, failures: Mapping[str, int], remedies: Mapping[str, str]) -> str:
    """The message for counts by `stage/reason`, with the remedy of the stage that failed most."""
    reasons = ", ".join(f"{reason} x{count}" for reason, count in failures.items())
    stage = max(failures, key=failures.__getitem__).split("/")[0]
    return f"{rule}, got only failures: {reasons}; {remedies[stage]}"
