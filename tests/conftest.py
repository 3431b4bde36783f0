"""Before any product module is imported: shapes and dtypes of the tensor functions are checked in every test.

What needs torch, vLLM, DeepSpeed or peft is skipped where that has no build for the Python in use: by name, and
with a count at the end. The seconds of each folder of tests stand there too.
"""

import gc
import importlib.util
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(
    ["learner.training.advantage", "learner.training.loss", "learner.training.logprobs"], "beartype.beartype"
)
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("repeatable")

MISSING = frozenset(
    name for name in ("torch", "vllm", "deepspeed", "peft") if importlib.util.find_spec(name) is None
)
"""Empty in the environment of `make setup`: nothing is skipped there."""
STARTED = pytest.StashKey[float]()


def missing_package(error: BaseException | None) -> str | None:
    """The missing package that an error, or its cause, is about."""
    while error is not None:
        name = error.name.split(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
        if name in MISSING:
            return name
        error = error.__cause__ or error.__context__
    return None


def skip_if_missing(report: Any, call: pytest.CallInfo[Any], path: str) -> None:
    """Turns a failure for want of a missing package into a skip."""
    name = missing_package(call.excinfo.value) if report.failed and call.excinfo else None
    if name is not None:
        report.outcome, report.longrepr = "skipped", (path, 0, f"needs {name}")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, pytest.CollectReport]:
    """A file that imports a missing package."""
    report = yield
    skip_if_missing(report, report.call, str(collector.path))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, Any, pytest.TestReport]:
    """A test, or a fixture, that imports one later."""
    report = yield
    skip_if_missing(report, call, str(item.path))
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    """The clock of the whole session."""
    session.config.stash[STARTED] = time.perf_counter()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Without the garbage collector, which would go over all that is imported again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish() -> None:
    """Libraries count at the interpreter's end what is left of theirs."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Seconds by folder, summed over all tests and processes; what was skipped for want of a package."""
    seconds: dict[str, float] = defaultdict(float)
    tests: Counter[str] = Counter()
    # every process of pytest-xdist reports a file of its own accord
    skipped: dict[str, set[str]] = defaultdict(set)
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            folder = "/".join(report.nodeid.partition("::")[0].split("/")[:-1][:2])
            seconds[folder] += report.duration
            tests[folder] += report.when == "call"
        reason = getattr(report, "longrepr", None) if getattr(report, "skipped", False) else None
        if isinstance(reason, tuple | list) and reason[2].startswith("needs "):
            skipped["tests" if isinstance(report, pytest.TestReport) else "files"].add(report.nodeid)
    terminalreporter.section("seconds by folder")
    for folder in sorted(seconds):
        terminalreporter.line(f"{folder:<20} {tests[folder]:>5} tests {seconds[folder]:>8.1f} s")
    terminalreporter.line(f"{'wall time':<20} {'':>11} {time.perf_counter() - config.stash[STARTED]:>8.1f} s")
    if skipped:
        what = ", ".join(f"{len(names)} {kind}" for kind, names in sorted(skipped.items()))
        terminalreporter.line(f"skipped for want of {', '.join(sorted(MISSING))}: {what}", yellow=True)


# these read from engines; test_publish.py, which changes their weights, comes after them by its name
READERS = ("test_lockstep.py", "test_parity.py", "test_parity_scoring.py")
ENGINES = ("untied-float32", "tied-float32", "tied-bfloat16")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup`: one worker runs the tests of an engine, or of a file where they share none.

    Not with xdist's own marks: 3.8 writes a group into a test's id, which pytest 9.2 reads from elsewhere.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return engine_or_file(nodeid)

    return ByEngine(config, log)


def engine_or_file(nodeid: str) -> str:
    """The group of a test: an engine, or its file."""
    path = nodeid.split("::")[0]
    if path.endswith(READERS):
        return ENGINES[1] if "[tied-" in nodeid else ENGINES[0]
    return next((engine for engine in ENGINES if f"[{engine}" in nodeid), path)
