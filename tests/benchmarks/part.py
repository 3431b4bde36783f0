"""What the parts of `make bench` share: options, a line per measurement on stderr, a time box, JSON on stdout."""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

GRACE_S = 10.0
"""Seconds that the processes of a part get to end by themselves once its time box is over."""


def parser_of(description: str | None, *, minutes: float) -> argparse.ArgumentParser:
    """The options that every part has.

    Args:
        description: the part's docstring.
        minutes: default of the time box.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument(
        "--minutes",
        type=float,
        default=minutes,
        help="time box: the part ends there with a line on stderr and exit code 1 (default: %(default)g)",
    )
    return parser


class Part:
    """A part while it runs.

    Attributes:
        folder: temporary.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self._name = folder, name
        self._start_s, self._current = time.perf_counter(), "nothing yet"

    @contextmanager
    def measurement(self, what: str) -> Generator[None]:
        """At the end of the block a line has its seconds."""
        self._current, begin_s = what, time.perf_counter()
        yield
        self.say(f"{what}: {time.perf_counter() - begin_s:.1f} s")

    def say(self, text: str) -> None:
        """A line with the seconds since the part began."""
        seconds = time.perf_counter() - self._start_s
        print(f"bench {self._name} +{seconds:.0f} s  {text}", file=sys.stderr, flush=True)

    def expire(self, minutes: float) -> None:
        """Ends this process and all that it started.

        The main thread may wait in compiled code, which no exception reaches: nothing is asked of it.
        """
        self.say(f"FAILED: passed its {minutes:g} minutes in {self._current!r}; --minutes gives it more")
        _end_children()
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(1)


@contextmanager
def boxed(name: str, *, minutes: float) -> Generator[Part]:
    """A part, within a time box of so many minutes."""
    with tempfile.TemporaryDirectory() as folder:
        part = Part(name, Path(folder))
        part.say(f"begins, at most {minutes:g} minutes")
        box = threading.Timer(60 * minutes, part.expire, [minutes])
        box.daemon = True
        box.start()
        try:
            yield part
        finally:
            box.cancel()
        part.say("done")


def _end_children() -> None:
    children = psutil.Process().children(recursive=True)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for child in children:
            try:
                end(child)
            except psutil.NoSuchProcess:
                continue
        _, children = psutil.wait_procs(children, timeout=GRACE_S)
