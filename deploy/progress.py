"""What a person sees while a run goes on: phases with their seconds, bars, a line per step."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Writes to one console; spinners and bars where it is a terminal.

    Attributes:
        seconds: by phase.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Shows a phase while it lasts, and its seconds after."""
        start = time.perf_counter()
        with self.console.status(f"{name} ..."):
            yield
        self._ended(name, start)

    @contextmanager
    def bar(self, name: str) -> Generator[Callable[[int, int], None]]:
        """A phase of countable work; what it yields is told how much is done, and of how much."""
        start = time.perf_counter()
        columns = (TextColumn(f"  {name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bars:
            task = bars.add_task(name, total=None)

            def update(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            yield update
        self._ended(name, start)

    def say(self, text: str) -> None:
        """A line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _ended(self, name: str, start: float) -> None:
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.console.print(f"  {name:<24} {seconds:7.1f} s", highlight=False)


class StepLines:
    """A line per step, or per so many, with the time that is left at this pace."""

    def __init__(self, progress: Progress, *, name: str, first_step: int, num_steps: int, every: int = 1) -> None:
        self._progress, self._name = progress, name
        self._first, self._num_steps, self._every = first_step, num_steps, every
        self._start = time.perf_counter()

    def step(self, step: int, text: str) -> None:
        """One finished step."""
        if step % self._every and step != self._num_steps:
            return
        pace = (time.perf_counter() - self._start) / max(1, step - self._first)
        left = pace * (self._num_steps - step)
        self._progress.say(f"{self._name} {step:>4}/{self._num_steps}  {text}  {left:5.0f} s left")
