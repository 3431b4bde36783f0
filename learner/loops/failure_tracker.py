"""Detects that every clip of a corpus has failed."""

from common.types import Draw


class FailureTracker:
    """Counts clips that failed since the last that did not; by clip, as the order says nothing.

    Failures come back sooner than groups, so many in a row mean little: only when every clip of the corpus has
    failed is there nothing left to hope for.
    """

    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._failed: set[str] = set()

    def succeeded(self) -> None:
        self._failed.clear()

    def failed(self, draw: Draw) -> bool:
        """A clip came to nothing; whether by now all have."""
        self._failed.add(draw.record.prompt_id)
        return len(self._failed) >= self._num_prompts
