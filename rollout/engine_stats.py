"""The work of one vLLM engine in numbers, without vLLM: the driver reads them too."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """vLLM's counters after its last step; sequences are counted singly, not as groups."""

    num_steps: int = 0
    """Steps since the start, the warm-up included."""
    num_running: int = 0
    """Sequences that the last step left running."""
    num_waiting: int = 0
    """Other sequences in vLLM, and those that wait for admission."""
    kv_use: float = 0.0
    """Share of the key-value cache in use, 0 to 1."""
    num_preemptions: int = 0
    """Preempted sequences since the start; vLLM reports one when the sequence runs again."""
    longest_step_s: float = 0.0
    """Seconds of the longest step since the start; neither idle nor paused time is part of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """The state that one step of vLLM left."""

    num_running: int
    num_waiting: int
    kv_use: float
    num_preempted: int


class StepCounter:
    """Sums of an engine's steps; times are seconds of the caller's clock.

    vLLM reports the end of a step only. Its begin is the end of the step before, or the moment at which an idle or
    paused engine got work.
    """

    def __init__(self) -> None:
        self.last = Step(num_running=0, num_waiting=0, kv_use=0.0, num_preempted=0)
        self.num_steps = 0
        self.num_preemptions = 0
        self.longest_step_s = 0.0
        self._began_s: float | None = None
        self._is_paused = False

    def began(self, now_s: float) -> None:
        """The engine has work."""
        if self._began_s is None and not self._is_paused:
            self._began_s = now_s

    def stopped(self) -> None:
        """The engine has no work any more."""
        self._began_s = None

    def paused(self) -> None:
        self._began_s, self._is_paused = None, True

    def resumed(self, now_s: float, *, is_busy: bool) -> None:
        self._is_paused = False
        if is_busy:
            self.began(now_s)

    def ended(self, now_s: float, step: Step, *, is_busy: bool) -> None:
        """A step ended; a busy engine takes the next one at once."""
        if self._began_s is not None:
            self.longest_step_s = max(self.longest_step_s, now_s - self._began_s)
        # the end of the last step may be read after the answer to a pause
        self._began_s = now_s if is_busy and not self._is_paused else None
        self.last = step
        self.num_steps += 1
        self.num_preemptions += step.num_preempted
