"""Killed anywhere and started again, a run comes to the same bits as one that was never killed.

The kills come from outside, by pid, at a random moment within a phase; the phase is read from the run's own event
stream, before and after. Everything is generated anew: nothing is replayed from what an earlier attempt left.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from learner.records.record import read_samples, sample_file
from tests.e2e.support import lines_of, popen, start, steps_of, write_recipe

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
LAST_STEP = 16
PHASES = ("generate", "reward", "learn", "publish", "checkpoint")
"""A kill in each, in this order; `generate` is the rollout."""
AFTER_S = 0.1
"""Seconds after a checkpoint's copy in which it is being written still."""
MORE = "\nevaluation: {policies: []}\n"
PATIENT = "{type: python, name: patient, entrypoint: 'tests.e2e.slow:patient', weight: 1}"
REWARDS = f"[{{type: builtin, name: accuracy_r1omni}}, {{type: builtin, name: format_r1omni}}, {PATIENT}]"
ONE_ENGINE = ("--rollout.num_engines", "1")
# dropout makes what each rank's random numbers are visible
TWO_ENGINES = (
    "--rollout.num_engines",
    "2",
    "--rollout.num_cpus",
    "0.3",
    "--learner.lora",
    "{rank: 4, dropout: 0.2}",
)


@dataclass(kw_only=True)
class Case:
    """A run that can be started again and again."""

    folder: Path
    arguments: list[str]
    program: str = "learner.main"
    kills: list[str] = field(default_factory=list[str])
    """EventLog that the run was killed in."""

    def popen(self) -> subprocess.Popen[str]:
        """The command, begun."""
        return popen(*self.arguments, program=self.program)

    def finish(self) -> str:
        """The command to its end; what it said."""
        process = self.popen()
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out[-3000:]
        return out

    def events(self) -> list[dict[str, Any]]:
        """Of all attempts, oldest first."""
        return lines_of(self.folder / "events.jsonl")


@pytest.fixture(scope="module")
def cold_started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which a policy has had its cold start, and nothing else has happened."""
    root = tmp_path_factory.mktemp("runs")
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    corpus = write_synthetic_corpus(tmp_path_factory.mktemp("corpus"), sizes)
    config = write_recipe(root / "run.yaml", root=root, corpus=corpus, more=MORE)
    done = start("--config", str(config), "--learner.steps", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    return root


def case(cold_started: Path, target: Path, *more: str, program: str = "learner.main") -> Case:
    """A run of its own from that cold start."""
    folder = target / "test"
    folder.mkdir(parents=True)
    for path in (cold_started / "test").iterdir():
        if path.name.startswith("model-") or path.name in {"cold_start", "corpus"}:
            shutil.copytree(path, folder / path.name)
    arguments = ["--config", str(cold_started / "run.yaml"), "--run.root", str(target)]
    arguments += ["--learner.steps", str(LAST_STEP), "--learner.checkpoint.every_steps", "2"]
    arguments += ["--reward.rewards", REWARDS, "--learner.optimizer.schedule", "linear", *more]
    return Case(folder=folder, arguments=arguments, program=program)


def findings(run: Case) -> dict[str, Any]:
    """Everything that a run comes to, but for how long it took and how often it began."""
    metrics = [
        {
            k: v
            for k, v in line.items()
            if "seconds" not in k and "latency" not in k and not k.startswith(("publish/canary", "run/lineage"))
        }
        for line in lines_of(run.folder / "metrics.jsonl")
    ]
    samples = [read_samples(sample_file(run.folder, step)) for step in range(1, LAST_STEP + 1)]
    manifest = json.loads((run.folder / "checkpoints" / f"step_{LAST_STEP:06d}" / "manifest.json").read_text())
    # where the ledger ends tells how often the run began, and an adapter where the model under it lies
    kept = {k: v for k, v in manifest.items() if k not in {"state.json", "adapter/adapter_config.json"}}
    assert any(name.startswith("optimizer/rng-") for name in kept)
    return {"metrics": metrics, "samples": samples, "checkpoint": kept}


def assert_same(run: Case, unbroken: Case) -> None:
    """Bit for bit, step by step, and the ledger is whole."""
    found, expected = findings(run), findings(unbroken)
    for step in range(LAST_STEP):
        assert found["samples"][step] == expected["samples"][step], f"the samples of step {step + 1}"
        assert found["metrics"][step] == expected["metrics"][step], f"the metrics of step {step + 1}"
    assert found["checkpoint"] == expected["checkpoint"]
    assert steps_of(run.folder) == list(range(1, LAST_STEP + 1))
    checked = check_ledger(run.folder / "ledger.jsonl")
    assert checked.faults == ()
    assert checked.fates == {"trained": 4 * LAST_STEP}


def seconds_of(run: Case, phase: str) -> float:
    """How long a phase lasts, at the median."""
    events = [e for e in run.events() if e.get("phase") == phase]
    spans = sorted(end["time"] - begin["time"] for begin, end in zip(events[::2], events[1::2], strict=True))
    return spans[len(spans) // 2]


def kill_within(run: Case, phase: str, *, seconds: float) -> bool:
    """Starts the run, waits until a phase has begun, and kills all of it at a random moment in the phase.

    Args:
        run: what is started.
        phase: the event that is waited for; the first or second of this attempt.
        seconds: that the phase lasts.

    Returns:
        Whether the run was in that phase, and not past it.
    """
    start_at, wanted = len(run.events()), random.choice([1, 2])
    process = run.popen()
    below: list[psutil.Process] = []
    while _begun(events := run.events()[start_at:], phase) < wanted:
        assert process.poll() is None, process.communicate()[0][-3000:]
        if events and not below:
            # before the phase: some are over sooner than processes are listed
            below = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.002)
    time.sleep(random.uniform(0, seconds))
    with process:
        # the driver first: it writes the events
        process.kill()
        for child in below:
            if child.is_running():
                os.kill(child.pid, signal.SIGKILL)
    psutil.wait_procs(below, timeout=60)
    *_, last = [e for e in run.events() if e.get("phase") == phase]
    after_it = [e for e in run.events() if e["time"] > last["time"]]
    is_within = last["event"] == "begin" or (phase == "checkpoint" and not after_it)
    if is_within:
        run.kills.append(phase)
    return is_within


def _begun(events: Sequence[dict[str, Any]], phase: str) -> int:
    return sum(e.get("phase") == phase and e["event"] == "begin" for e in events)


def kill_in_each(run: Case, phases: Sequence[str], unbroken: Case) -> None:
    """A kill in each phase; where one came too late for its phase, another."""
    for phase in phases:
        seconds = seconds_of(unbroken, phase) + (AFTER_S if phase == "checkpoint" else 0.0)
        for _ in range(4):
            if kill_within(run, phase, seconds=seconds):
                break
    assert run.kills == list(phases), "each phase was hit"
    run.finish()


@pytest.fixture(scope="module")
def one_engine(cold_started: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Never killed."""
    run = case(cold_started, tmp_path_factory.mktemp("one"), *ONE_ENGINE)
    run.finish()
    return run


@pytest.fixture(scope="module")
def two_engines(cold_started: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Never killed; adapters with dropout."""
    run = case(cold_started, tmp_path_factory.mktemp("two"), *TWO_ENGINES)
    run.finish()
    return run


@pytest.mark.parametrize(("unbroken", "settings"), [("one_engine", ONE_ENGINE), ("two_engines", TWO_ENGINES)])
def test_a_run_killed_in_every_phase_comes_to_the_same_bits(
    unbroken: str, settings: tuple[str, ...], cold_started: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run, expected = case(cold_started, tmp_path, *settings), request.getfixturevalue(unbroken)
    kill_in_each(run, PHASES, expected)
    assert_same(run, expected)


def test_requests_that_come_late_change_no_bit(cold_started: Path, two_engines: Case, tmp_path: Path) -> None:
    run = case(cold_started, tmp_path, *TWO_ENGINES, program="tests.e2e.slow")
    run.finish()
    assert seconds_of(run, "generate") > seconds_of(two_engines, "generate"), "they were late"
    assert_same(run, two_engines)


def test_a_rank_that_is_killed_in_a_step_is_rebuilt_within_the_run(
    cold_started: Path, one_engine: Case, tmp_path: Path
) -> None:
    run = case(cold_started, tmp_path, *ONE_ENGINE)
    process = run.popen()
    while _begun(run.events(), "learn") < 4:
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.002)
    time.sleep(random.uniform(0, seconds_of(one_engine, "learn") / 2))
    ranks = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "LearnerRank" in " ".join(p.cmdline())
    ]
    assert len(ranks) == 2
    os.kill(random.choice(ranks).pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out[-3000:]
    assert "the learner ranks are rebuilt" in out
    checked = check_ledger(run.folder / "ledger.jsonl")
    assert checked.num_rewinds == 1
    assert_same(run, one_engine)
