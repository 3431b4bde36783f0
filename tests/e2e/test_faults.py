"""Ten faults in the engines of one run, by the tool that anyone can use: the run ends well, and with the same bits.

The faults come from another process, by pid, at random moments of rollouts, training and publishes. The run is
deterministic: after it, the final checkpoint, every sample and the ledger equal those of a run without faults.
"""

import hashlib
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from learner.records.record import read_samples, sample_file
from rollout.fleet.health import LONGEST_STEPS, MIN_SILENCE_S
from tests.e2e.support import command, environment, lines_of, popen, start, steps_of, wait_for_step, write_recipe

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]
NUM_STEPS = 40
NUM_FAULTS = 10
KILL_S = 5.0
"""Seconds in which a killed process is noticed."""
MORE = "\nevaluation: {policies: []}\n"
SETTINGS = (
    "--rollout.num_engines",
    "2",
    "--rollout.num_cpus",
    "0.3",
    "--learner.steps",
    str(NUM_STEPS),
    "--learner.checkpoint.every_steps",
    "10",
)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run to its end, and the faults in it."""

    folder: Path
    faults: list[dict[str, Any]]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe over a small corpus."""
    root = tmp_path_factory.mktemp("runs")
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    corpus = write_synthetic_corpus(tmp_path_factory.mktemp("corpus"), sizes)
    return write_recipe(root / "run.yaml", root=root, corpus=corpus, more=MORE)


def to_its_end(config: Path, name: str, *, tool: tuple[str, ...] = ()) -> Ended:
    """A run of the recipe; the tool begins after its first step."""
    folder = config.parent / name
    process = popen("--config", str(config), "--run.name", name, *SETTINGS)
    faults: list[dict[str, Any]] = []
    if tool:
        wait_for_step(folder, 1, process)
    with ThreadPoolExecutor(1) as reader:
        # a pipe that nobody reads would hold the run up
        output = reader.submit(process.communicate, timeout=2400)
        if tool:
            faults = broken(folder, *tool)
        out, _ = output.result()
    assert process.returncode == 0, out[-3000:]
    assert steps_of(folder) == list(range(1, NUM_STEPS + 1))
    return Ended(folder=folder, faults=faults)


def broken(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """The tool's lines."""
    whole = command("--run", str(folder), *arguments, program="tests.support.faults")
    tool = subprocess.run(whole, capture_output=True, text=True, env=environment(), timeout=2400, check=False)
    sys.stdout.write(tool.stdout)
    assert tool.returncode == 0, tool.stdout + tool.stderr
    return [json.loads(line) for line in tool.stdout.splitlines()]


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Ended:
    """Without a fault."""
    return to_its_end(config, "undisturbed")


@pytest.fixture(scope="module")
def disturbed(config: Path) -> Ended:
    """Faults of every kind, with a new seed each time."""
    seed = str(random.randrange(2**32))
    return to_its_end(config, "disturbed", tool=("--seed", seed, "--count", str(NUM_FAULTS)))


def sha256s(folder: Path) -> dict[str, str]:
    """Of the files of the last checkpoint's model."""
    model = folder / "checkpoints" / f"step_{NUM_STEPS:06d}" / "hf"
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(model.iterdir())}


def ledger_of(folder: Path) -> list[dict[str, Any]]:
    """Without times."""
    return [{k: v for k, v in line.items() if k != "time"} for line in lines_of(folder / "ledger.jsonl")]


def test_a_run_survives_ten_faults_and_every_engine_serves_again(disturbed: Ended) -> None:
    assert len(disturbed.faults) == NUM_FAULTS
    checked = start("check", str(disturbed.folder), program="learner.ledger")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert check_ledger(disturbed.folder / "ledger.jsonl").fates == {"trained": 4 * NUM_STEPS}


def test_faults_are_detected_in_time(undisturbed: Ended, disturbed: Ended) -> None:
    generate_s = [e["time"] for e in lines_of(undisturbed.folder / "events.jsonl") if e.get("phase") == "generate"]
    # a step is a part of a phase that makes completions
    longest_s = max(end - begin for begin, end in zip(generate_s[::2], generate_s[1::2], strict=True))
    limits = {"kill": KILL_S, "stop": MIN_SILENCE_S + LONGEST_STEPS * longest_s}
    late = [fault for fault in disturbed.faults if fault["condemned_s"] > limits[fault["how"]]]
    assert late == []


def test_not_one_bit_of_a_deterministic_run_changes(undisturbed: Ended, disturbed: Ended) -> None:
    for step in range(1, NUM_STEPS + 1):
        samples = [read_samples(sample_file(ended.folder, step)) for ended in (undisturbed, disturbed)]
        assert samples[0] == samples[1], f"the samples of step {step}"
    assert ledger_of(disturbed.folder) == ledger_of(undisturbed.folder)
    assert sha256s(disturbed.folder) == sha256s(undisturbed.folder)
