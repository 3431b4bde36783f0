"""The end of every command: its exit code, one line for an error, and silence without a reader.

If the reader of a pipe is gone (`... | head`), a command ends like `cat`: at once, silently, with the code that a
shell reports after SIGPIPE. A training run first finishes its step and saves a checkpoint, as after Ctrl-C, and
reports it on stderr. SIGPIPE itself stays ignored: it would end a run because of any closed connection.
"""

import argparse
import contextlib
import functools
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TextIO

from common.errors import ConfigError, OmniError, UserError

P = ParamSpec("P")
FAILURE, USER_MISTAKE, INTERRUPTED = 1, 2, 130
NOT_READ = 128 + signal.SIGPIPE
"""Exit code without a reader of the output."""


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Decorates the `main` of a command with `exit_code`."""

    @functools.wraps(main)
    def guarded(*args: P.args, **options: P.kwargs) -> int:
        return exit_code(lambda: main(*args, **options))

    return guarded


class CommandParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # one line, without argparse's usage
        raise ConfigError(f"{message}; see --help")


def exit_code(work: Callable[[], int]) -> int:
    """The exit code of a command; an expected error becomes a line on stderr."""
    return quietly(lambda: _code_of(work))


def quietly(work: Callable[[], int]) -> int:
    """The exit code of a command that handles its own errors."""
    try:
        try:
            code = work()
        except SystemExit:
            _flush()
            # argparse ignores errors while it prints its help
            if _unread():
                raise BrokenPipeError from None
            raise
        # buffered output must fail here, and not when the interpreter ends
        _flush()
        # a run that was stopped has nothing left to write
        if code == INTERRUPTED and _unread():
            raise BrokenPipeError
        return code
    except BrokenPipeError:
        unread = _unread()
        if not unread:
            raise
        # the interpreter flushes the streams once more
        for stream in unread:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
        return NOT_READ


def say(text: str, code: int) -> int:
    """Writes a line on stderr and returns the code."""
    sys.stderr.write(f"{text}\n")
    return code


def _code_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except UserError as error:
        return say(f"error: {error}", USER_MISTAKE)
    except OmniError as error:
        return say(f"failed: {error}", FAILURE)
    except BrokenPipeError:
        raise
    except OSError as error:
        return say(f"failed: {error.filename or 'a file'}: {error.strerror}", FAILURE)
    except KeyboardInterrupt:
        return say("interrupted", INTERRUPTED)


def _flush() -> None:
    for stream in _outputs():
        stream.flush()


def _unread() -> list[TextIO]:
    """Output pipes without a reader."""
    streams: list[TextIO] = []
    for stream in _outputs():
        # an output in memory has no file descriptor
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            # errors are reported even if no event is requested
            poll.register(stream.fileno(), 0)
            if any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
                streams.append(stream)
    return streams


def _outputs() -> list[TextIO]:
    # a process may start without standard streams
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]
    return [stream for stream in streams if stream is not None]
