"""The end of every command: its exit code, one line for an error, and silence without a reader.

If the reader of a pipe is gone (`... | head`), a command ends like `cat`: at once, silently, with the code that a
shell reports after SIGPIPE. A run that trains finishes its step and saves a checkpoint, as after Ctrl-C, and
reports it on stderr if stderr is read. SIGPIPE itself stays ignored: it would end a run for any closed connection.
"""

import argparse
import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from common.errors import OmniError, UserError

FAILURE, USER_MISTAKE, INTERRUPTED = 1, 2, 130
NOT_READ = 128 + signal.SIGPIPE
"""Exit code where the reader of the output is gone."""


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
            # argparse passes over an error of its help
            if _unread():
                raise BrokenPipeError from None
            raise
        # what is still in the buffers must fail here, and not when the interpreter ends
        _flush()
        # a run that was stopped has nothing left to write
        if code == INTERRUPTED and _unread():
            raise BrokenPipeError
        return code
    except BrokenPipeError:
        unread = _unread()
        if not unread:
            raise
        # the interpreter flushes them once more
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
    except (UserError, argparse.ArgumentError) as error:
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
    poll, outputs = select.poll(), dict[int, TextIO]()
    for stream in _outputs():
        # an output in memory has no number
        with contextlib.suppress(OSError, ValueError):
            outputs[stream.fileno()] = stream
    for number in outputs:
        # errors are reported whatever is asked for
        poll.register(number, 0)
    return [outputs[number] for number, events in poll.poll(0) if events & (select.POLLERR | select.POLLHUP)]


def _outputs() -> list[TextIO]:
    # a process may start without them
    streams: list[TextIO | None] = [sys.stdout, sys.stderr]
    return [stream for stream in streams if stream is not None]
