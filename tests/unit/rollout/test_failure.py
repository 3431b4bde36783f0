"""What a process of vLLM records when it ends, and what of it an error names."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from rollout.failure import FAILURE_FILE, FailureFile, cause_of, is_kill, record_failures

SPAWN = multiprocessing.get_context("spawn")
WRAPPER = (
    "WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause."
)


@pytest.fixture(autouse=True)
def no_recorder_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Environment and logger as they were."""
    monkeypatch.setenv(FAILURE_FILE, "")
    logger = logging.getLogger("vllm")
    before = list(logger.handlers)
    yield
    logger.handlers = before


class Model(BaseModel):
    """As vLLM checks its configuration."""

    length: int

    @field_validator("length")
    @classmethod
    def refuse(cls, value: int) -> int:
        """Always."""
        raise ValueError(f"length {value} is greater than 8.\nSet it lower")


def invalid() -> ValidationError:
    """pydantic's text: the cause stands in its second line, an address in its last."""
    with pytest.raises(ValidationError) as caught:
        Model(length=9)
    return caught.value


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("too little\n memory"), "ValueError: too little memory"),
        (KeyError("thinker.norm"), "KeyError: 'thinker.norm'"),
        (AssertionError(), "AssertionError"),
        (
            RuntimeError(
                "Worker failed with error 'Available memory on node 0 (7.3/13.9 GiB) is less than 'x'', "
                "please check the stack trace above for the root cause"
            ),
            "Available memory on node 0 (7.3/13.9 GiB) is less than 'x'",
        ),
        (invalid(), "ValidationError: length 9 is greater than 8. Set it lower"),
    ],
)
def test_an_error_is_one_line_without_its_wrapping(error: BaseException, cause: str) -> None:
    assert cause_of(error) == cause


def worker_main(error: Exception | None) -> None:
    """Ends as vLLM's worker does: under a function of this name."""
    record_failures()
    record_failures()
    logger = logging.getLogger("vllm.v1.executor")
    _log_unrelated(logger)
    if error is None:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        raise error or AssertionError
    except Exception:
        logger.exception("WorkerProc failed to start.")


def _log_unrelated(logger: logging.Logger) -> None:
    try:
        raise OSError("no usage statistics")
    except OSError:
        logger.exception("This ends nothing.")


def run_engine_core(target: Callable[..., None], *args: object) -> None:
    """Ends as vLLM's core does after its worker."""
    record_failures()
    worker = SPAWN.Process(target=target, args=args, name="VllmWorker-0")
    worker.start()
    worker.join()
    try:
        raise RuntimeError(WRAPPER)
    except RuntimeError:
        logging.getLogger("vllm.v1.engine").exception("EngineCore failed to start.")
        sys.exit(1)


def ended(target: Callable[..., None], *args: object) -> None:
    """Runs one process to its end."""
    process = SPAWN.Process(target=target, args=args, name="EngineCore")
    process.start()
    process.join()


def test_the_first_process_that_fails_is_the_cause() -> None:
    failures = FailureFile()
    assert failures.cause() == ""
    ended(run_engine_core, worker_main, ValueError("too little\nmemory"))
    assert failures.cause() == "ValueError: too little memory"


def test_a_worker_that_is_killed_is_named_by_the_core_above_it() -> None:
    failures = FailureFile()
    ended(run_engine_core, worker_main, None)
    assert failures.cause() == "VllmWorker-0 was killed by SIGKILL"


def test_a_process_that_could_record_nothing_is_named_with_its_exit_code() -> None:
    failures = FailureFile()
    process = SPAWN.Process(target=sys.exit, args=(3,), name="EngineCore")
    process.start()
    process.join()
    assert failures.cause() == "EngineCore exited with code 3"


def test_what_vllm_terminates_itself_is_no_cause() -> None:
    failures = FailureFile()
    process = SPAWN.Process(target=signal.pause, name="EngineCore")
    process.start()
    process.terminate()
    process.join()
    assert failures.cause() == ""


def test_nothing_is_recorded_where_no_engine_is_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAILURE_FILE)
    before = list(logging.getLogger("vllm").handlers)
    record_failures()
    assert logging.getLogger("vllm").handlers == before


def test_two_engines_of_one_process_have_files_of_their_own() -> None:
    first, second = FailureFile(), FailureFile()
    Path(os.environ[FAILURE_FILE]).write_text("of the second\n")
    assert (first.cause(), second.cause()) == ("", "of the second")


@pytest.mark.parametrize(
    ("cause", "killed"),
    [
        ("VllmWorker-0 was killed by SIGKILL", True),
        ("EngineCore was killed by SIGSEGV", True),
        ("EngineCore exited with code 1", False),
        ("ValueError: a worker was killed by SIGKILL, or so it seems", False),
        ("", False),
    ],
)
def test_a_cause_that_is_a_signal_is_told_apart(cause: str, killed: bool) -> None:
    assert is_kill(cause) == killed
