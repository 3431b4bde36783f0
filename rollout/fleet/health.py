"""The health of one engine from its signs of life, as a pure function of time: no clock, no asyncio.

An engine shows life in two ways: all of vLLM's workers answer a heartbeat, and its work moves. A long step of vLLM
holds up both. So the engine hangs only after a silence that is longer than any of its steps.
"""

MIN_SILENCE_S = 30.0
"""Silence below which an engine never counts as hung."""
LONGEST_STEPS = 5.0
"""Silence that counts as a hang, as a multiple of the longest step."""


class EngineHealth:
    """Signs of life of one incarnation; times are seconds of the caller's clock."""

    def __init__(self, *, min_silence_s: float = MIN_SILENCE_S) -> None:
        self._min_silence_s = min_silence_s
        self._last_sign_s: float | None = None
        self._num_steps = 0
        self._longest_step_s = 0.0

    def warmed_up(self, now_s: float, *, longest_step_s: float) -> None:
        """Begins to count; the warm-up has run the longest step of the run's shapes."""
        self._last_sign_s = now_s
        self._longest_step_s = longest_step_s

    def answered(self, now_s: float) -> None:
        """All workers answered a heartbeat."""
        self._note(now_s)

    def stepped(self, now_s: float, *, num_steps: int, longest_step_s: float) -> None:
        """The engine's counters were read; only a new number of steps is a sign of life."""
        # the engine measures its steps: from here, a pause or an idle hour would look like one
        self._longest_step_s = max(self._longest_step_s, longest_step_s)
        if num_steps != self._num_steps:
            self._num_steps = num_steps
            self._note(now_s)

    def unwatched(self, seconds: float) -> None:
        """Nobody looked for so long, because the caller itself stood still: this was no silence and no step."""
        if self._last_sign_s is not None:
            self._last_sign_s += seconds

    @property
    def max_silence_s(self) -> float:
        return max(self._min_silence_s, LONGEST_STEPS * self._longest_step_s)

    def hangs(self, now_s: float) -> bool:
        """True after a silence that no step explains; never before the warm-up has ended."""
        return self._last_sign_s is not None and now_s - self._last_sign_s > self.max_silence_s

    def _note(self, now_s: float) -> None:
        # signs during the warm-up do not start the count
        if self._last_sign_s is not None:
            self._last_sign_s = now_s
