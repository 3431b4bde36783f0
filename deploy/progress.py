"""What a person sees while a run starts and goes on: phases with their seconds, a line per step."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console


class Progress:
    """Writes to one console; a spinner where it is a terminal."""

    def __init__(self, console: Console, *, num_steps: int) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._num_steps = num_steps
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Shows a phase of the start while it lasts, and its seconds after."""
        start = time.perf_counter()
        with self.console.status(f"{name} ..."):
            yield
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"  {name:<20} {self.seconds[name]:7.1f} s", highlight=False)

    def step(self, step: int, text: str) -> None:
        """One finished step, with the time that is left at this pace."""
        elapsed = time.perf_counter() - self._start
        self.console.print(f"step {step:>4}/{self._num_steps}  {text}  {elapsed:6.0f} s", highlight=False)
