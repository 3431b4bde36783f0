"""The end of every command: exit codes, one line for an error, silence behind a pipe that nobody reads."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import pytest

from common.errors import ConfigError, RewardError
from common.runtime.command import INTERRUPTED, NOT_READ, exit_code, quietly
from common.runtime.screen import Screen

REPOSITORY = Path(__file__).parents[4]
COMMANDS = {
    "common.datasets": "--help",
    "common.labels": "sad",
    "learner.evaluate": "--help",
    "learner.ledger": "--help",
    "learner.main": "--help",
    "learner.predict": "--help",
    "learner.sft": "--help",
    "reward.check": "--list",
    "reward.http": "--help",
}
"""Each with an argument that makes it write."""
NOT_COMMANDS = {"deploy.environment.repair", "reward.hosts.import_check", "reward.hosts.worker"}
"""A step of the set-up, and processes that the reward service starts."""


def closed_pipe() -> int:
    """The writing end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_every_command_is_listed_here() -> None:
    found = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
        for package in ("common", "deploy", "learner", "reward", "rollout")
        for path in (REPOSITORY / package).rglob("*.py")
        if "examples" not in path.parts and re.search(r"^if __name__ ==", path.read_text(), re.MULTILINE)
    }
    assert found == COMMANDS.keys() | NOT_COMMANDS


def test_commands_end_without_a_word_where_nobody_reads_their_output() -> None:
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    unbuffered = {**buffered, "PYTHONUNBUFFERED": "1"}
    writer = closed_pipe()

    def started(name: str, env: dict[str, str], stderr: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", name, COMMANDS[name]]
        return subprocess.Popen(command, stdout=writer, stderr=stderr, env=env, cwd=REPOSITORY, text=True)

    alone = {name: started(name, buffered, subprocess.PIPE) for name in COMMANDS}
    # 2>&1, and with each way to write of its own: argparse, `print`, rich
    joined = [
        started(n, unbuffered, subprocess.STDOUT) for n in ("learner.ledger", "learner.main", "common.labels")
    ]
    os.close(writer)
    ends = {name: (process.communicate()[1], process.returncode) for name, process in alone.items()}
    assert ends == dict.fromkeys(COMMANDS, ("", NOT_READ))
    assert [process.wait() for process in joined] == [NOT_READ] * 3


def test_a_shell_sees_the_code_of_sigpipe() -> None:
    line = f"set -o pipefail; {sys.executable} -m learner.main --help | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (141, "")
    assert done.stdout.startswith("python -m learner.main")
    assert done.stdout.count("\n") == 1


@pytest.fixture
def leave(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], TextIO]]:
    """Has the reader of the standard output go; returns the output."""
    with ExitStack() as opened:

        def leave() -> TextIO:
            stream = opened.enter_context(os.fdopen(closed_pipe(), "w", encoding="utf-8"))
            monkeypatch.setattr(sys, "stdout", stream)
            return stream

        yield leave


def long_text() -> int:
    """Past every buffer."""
    return sys.stdout.write("x" * 1_000_000) and 0


def short_text() -> int:
    """Stays in the buffer until the end."""
    sys.stdout.write("x")
    return 0


def table() -> int:
    """Through rich."""
    Screen(file=sys.stdout).print("x")
    return 0


@pytest.mark.parametrize("end", [quietly, exit_code])
@pytest.mark.parametrize("work", [long_text, short_text, table])
def test_output_that_nobody_reads_ends_the_work_quietly(
    leave: Callable[[], TextIO],
    capsys: pytest.CaptureFixture[str],
    end: Callable[[Callable[[], int]], int],
    work: Callable[[], int],
) -> None:
    stream = leave()
    assert end(work) == NOT_READ
    # as the interpreter does at its end
    stream.flush()
    assert capsys.readouterr().err == ""


def test_a_run_that_was_stopped_for_want_of_a_reader_has_that_code(leave: Callable[[], TextIO]) -> None:
    assert quietly(lambda: INTERRUPTED) == INTERRUPTED
    leave()
    assert [quietly(lambda code=code: code) for code in (0, 1, 2)] == [0, 1, 2]
    assert quietly(lambda: INTERRUPTED) == NOT_READ


def test_another_broken_pipe_is_not_taken_for_the_output() -> None:
    def work() -> int:
        raise BrokenPipeError

    for end in (quietly, exit_code):
        with pytest.raises(BrokenPipeError):
            end(work)


def test_a_bug_keeps_its_traceback_behind_a_closed_pipe(leave: Callable[[], TextIO]) -> None:
    leave()

    def work() -> int:
        short_text()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        exit_code(work)
    assert quietly(lambda: 0) == NOT_READ


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a must be b, got c; d"), 2, "error: a must be b, got c; d\n"),
        (RewardError("the service died"), 1, "failed: the service died\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "failed: x: No such file or directory\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_each_error_has_its_line_and_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def work() -> int:
        raise error

    assert exit_code(work) == code
    assert capsys.readouterr() == ("", said)


def test_a_command_without_any_output_ends_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert quietly(lambda: 3) == 3
