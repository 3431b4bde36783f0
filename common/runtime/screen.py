"""The screen of a command: a console, progress bars, and the next command."""

import errno
import os
import shlex
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

INTERVAL_S = 30.0
"""Seconds between two lines of progress if the output is not a terminal."""


class Screen(Console):
    """A console that survives a closed pipe: `when_unread` is called once, and later lines are dropped."""

    when_unread: Callable[[], None] | None = None

    def on_broken_pipe(self) -> None:
        if self.when_unread is None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self.quiet = True
        self.when_unread()


@contextmanager
def bar(console: Console, name: str) -> Generator[Callable[[int, int], None]]:
    """Shows progress as a bar, or as lines without a terminal; yields a function of the done and total counts."""
    if not console.is_terminal:
        yield _lines(console, name)
        return
    columns = (TextColumn(f"  {name}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _lines(console: Console, name: str) -> Callable[[int, int], None]:
    start = shown = time.monotonic()

    def update(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= INTERVAL_S and 0 < done < total:
            shown = now
            left = (now - start) / done * (total - done)
            print_line(console, f"  {name}  {done}/{total}  {left:.0f} s left")

    return update


def print_end(console: Console, folder: Path, command: Sequence[str]) -> None:
    """Prints the last lines of a command: its folder, and the next command."""
    print_line(console, f"folder  {folder}")
    print_line(console, f"next    {shlex.join(command)}")


def print_line(console: Console, text: str) -> None:
    """Prints a text in one line without wrapping, so that paths and commands can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
