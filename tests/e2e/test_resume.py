"""A run that is stopped or killed resumes: the same command again, nothing lost, nothing trained twice."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from tests.e2e.support import popen, start, steps_of, wait_for_step, write_recipe

pytestmark = pytest.mark.long
LAST_STEP = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of each split."""
    folder = tmp_path_factory.mktemp("corpus")
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    return write_synthetic_corpus(folder, sizes)


@pytest.fixture(scope="module")
def cold_started(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has had its cold start and one step: what all tests resume copies of."""
    root = tmp_path_factory.mktemp("runs")
    config = write_recipe(root / "run.yaml", root=root, corpus=corpus)
    done = start(
        "--config", str(config), "--learner.steps", str(LAST_STEP), "--learner.checkpoint.every_steps", "100"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = root / "test"
    for name in ("checkpoints", "samples", "tensorboard"):
        shutil.rmtree(folder / name)
    for name in ("metrics.jsonl", "ledger.jsonl", "summary.json"):
        (folder / name).unlink()
    return root


def prepared(cold_started: Path, target: Path, corpus: Path) -> tuple[Path, list[str]]:
    """A copy of the run, and the command's arguments."""
    shutil.copytree(cold_started / "test", target / "test")
    config = write_recipe(target / "run.yaml", root=target, corpus=corpus)
    text = (target / "test" / "config.yaml").read_text()
    (target / "test" / "config.yaml").write_text(text.replace(str(cold_started), str(target)))
    arguments = [
        "--config",
        str(config),
        "--learner.steps",
        str(LAST_STEP),
        "--learner.checkpoint.every_steps",
        "2",
    ]
    return target / "test", arguments


def assert_whole(folder: Path) -> None:
    """Every step once, every draw one fate, and the summary counts them all."""
    assert steps_of(folder) == list(range(1, LAST_STEP + 1))
    found = check_ledger(folder / "ledger.jsonl")
    assert found.faults == ()
    assert found.fates == {"trained": 4 * LAST_STEP}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["grpo_steps"], summary["publishes"], summary["canary_failures"]) == (LAST_STEP, LAST_STEP, 0)
    samples = sorted(p.name for p in (folder / "samples").iterdir())
    assert samples == [f"step_{step:06d}.jsonl.gz" for step in range(1, LAST_STEP + 1)]


def test_a_killed_run_resumes_from_its_checkpoint(cold_started: Path, corpus: Path, tmp_path: Path) -> None:
    folder, arguments = prepared(cold_started, tmp_path, corpus)
    process = popen(*arguments)
    wait_for_step(folder, 3, process)
    time.sleep(random.uniform(0, 2))
    below = psutil.Process(process.pid).children(recursive=True)
    with process:
        process.kill()
    _, left = psutil.wait_procs(below, timeout=300)
    assert not left, "everything is owned by the driver and ends with it"
    reached = steps_of(folder)
    done = start(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    resumed = re.search(r"resumed after step (\d+)", done.stdout)
    assert resumed is not None
    assert_whole(folder)
    assert reached[-1] >= 3
    # nothing stands behind a checkpoint where the kill comes right after it
    num_rewinds = check_ledger(folder / "ledger.jsonl").num_rewinds
    assert num_rewinds == 1 or (num_rewinds == 0 and int(resumed[1]) == reached[-1])


def test_a_cold_start_that_is_killed_comes_to_the_same_policy(
    cold_started: Path, corpus: Path, tmp_path: Path
) -> None:
    config = write_recipe(tmp_path / "run.yaml", root=tmp_path, corpus=corpus)
    arguments = ["--config", str(config), "--sft.steps_per_checkpoint", "5"]
    process = popen(*arguments, program="learner.sft")
    stage = tmp_path / "test" / "sft"
    wait_for_step(stage, 12, process)
    time.sleep(random.uniform(0, 1))
    with process:
        process.kill()
    done = start(*arguments, program="learner.sft")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the cold start is resumed after step" in done.stdout
    assert steps_of(stage) == list(range(1, 31))
    assert check_ledger(stage / "ledger.jsonl").faults == ()
    whole, resumed = (
        json.loads((root / "test" / "cold_start" / "manifest.json").read_text())
        for root in (cold_started, tmp_path)
    )
    assert resumed == whole


def test_ctrl_c_keeps_what_was_learned_and_says_how_to_resume(
    cold_started: Path, corpus: Path, tmp_path: Path
) -> None:
    folder, arguments = prepared(cold_started, tmp_path, corpus)
    process = popen(*arguments)
    wait_for_step(folder, 3, process)
    # a terminal sends it to everything that runs in it
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 130, out[-2000:]
    assert "stopping when this step is done" in out
    assert "the same command again resumes" in out
    reached = steps_of(folder)[-1]
    assert (folder / "checkpoints" / f"step_{reached:06d}" / "hf" / "model.safetensors").is_file()
    done = start(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"resumed after step {reached}" in done.stdout
    assert_whole(folder)


def test_a_torn_checkpoint_is_passed_over(cold_started: Path, corpus: Path, tmp_path: Path) -> None:
    folder, arguments = prepared(cold_started, tmp_path, corpus)
    process = popen(*arguments)
    wait_for_step(folder, 5, process)
    with process:
        process.kill()
    newest = max((folder / "checkpoints").glob("step_??????"))
    weights = newest / "hf" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = start(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resumed after step 2" in done.stdout
    assert_whole(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a checkpoint does not fit on, beside what is there."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_leaves_a_run_that_resumes(cold_started: Path, corpus: Path, small_disk: Path) -> None:
    folder, arguments = prepared(cold_started, small_disk, corpus)
    stopped = start(*arguments)
    assert stopped.returncode == 1, stopped.stdout[-2000:]
    assert "No space left" in stopped.stderr
    assert "the same command again resumes" in stopped.stderr
    assert not list((folder / "checkpoints").glob("step_??????"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    done = start(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_whole(folder)


def test_other_settings_are_refused_with_their_keys(cold_started: Path, corpus: Path, tmp_path: Path) -> None:
    _, arguments = prepared(cold_started, tmp_path, corpus)
    done = start(*arguments, "--learner.optimizer.lr", "0.5", "--rollout.group_size", "6")
    assert done.returncode == 2
    assert "(learner.optimizer.lr: 0.0003 before, 0.5 now; rollout.group_size: 4 before, 6 now)" in done.stderr
    assert "--run.resume never" in done.stderr
