"""The progress of a run on the screen: phases with their seconds, bars, a line per step."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from common.runtime.screen import Screen, bar, print_line


class LiveLine:
    """The current phase and its seconds; redrawn while it is visible."""

    def __init__(self, text: str) -> None:
        self.show(text)

    def show(self, text: str) -> None:
        self._text, self._start = text, time.perf_counter()

    def __rich__(self) -> Text:
        return Text(f"{self._text}  {time.perf_counter() - self._start:.0f} s")


class Progress:
    """Writes to one console: live lines and bars on a terminal, lines at intervals elsewhere.

    Attributes:
        started: seconds since 1970 at the start of the command.
        seconds: of each phase that ended.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self.started = time.time()
        self._start = time.perf_counter()
        self.live: LiveLine | None = None

    @property
    def seconds_total(self) -> float:
        """Seconds since the start of the command."""
        return time.perf_counter() - self._start

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Shows a phase during the block, and its seconds afterwards."""
        outer, self.live = self.live, LiveLine(name)
        try:
            with self._timed(name), self.console.status(self.live):
                yield
        finally:
            self.live = outer

    def task(self, text: str) -> None:
        """A temporary line for a part of a phase, with its own seconds."""
        if self.live is not None:
            self.live.show(text)

    @contextmanager
    def bar(self, name: str) -> Generator[Callable[[int, int], None]]:
        """A phase with a bar; yields a function that takes the numbers of done and of all items."""
        with self._timed(name), bar(self.console, name) as update:
            yield update

    def say(self, text: str) -> None:
        print_line(self.console, text)

    def when_unread(self, stop: Callable[[], None]) -> None:
        """Sets the callback for output whose reader is gone."""
        if isinstance(self.console, Screen):
            self.console.when_unread = stop

    @contextmanager
    def _timed(self, name: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        print_line(self.console, f"  {name:<24} {seconds:7.1f} s")


class StepLines:
    """A line per step, or per several, with the estimated time left; and the current phase of a step."""

    def __init__(self, progress: Progress, *, name: str, first_step: int, num_steps: int, every: int = 1) -> None:
        self._progress, self._name = progress, name
        self._first, self._num_steps, self._every = first_step, num_steps, every
        self._finished = first_step
        self._start = time.perf_counter()

    def phase(self, name: str) -> None:
        """Shows a new phase: `checkpoint` of the last finished step, any other of the next step."""
        step = self._finished + (name != "checkpoint")
        self._progress.task(f"{self._name} {step}/{self._num_steps}  {name}")

    def step(self, step: int, text: str) -> None:
        self._finished = step
        if step % self._every and step != self._num_steps:
            return
        pace = (time.perf_counter() - self._start) / max(1, step - self._first)
        left = pace * (self._num_steps - step)
        self._progress.say(f"{self._name} {step:>4}/{self._num_steps}  {text}  {left:5.0f} s left")
