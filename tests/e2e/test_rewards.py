"""Rewards of a run: one that asks the engines, and a service that is killed while it scores."""

import os
import random
import signal
import time
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
MORE = "\nevaluation: {policies: []}\n"
PAPER = "{type: builtin, name: accuracy_r1omni}, {type: builtin, name: format_r1omni}"
READ = "{type: builtin, name: accuracy}"
HEARD = "{type: builtin, name: heard, builtin: modality_gain, weight: 0.3, options: {anchor: accuracy, scale: 0.1}}"
SWAPPED = "{type: builtin, name: swapped, builtin: modality_gain, options: {without: audio_swapped, given: think}}"
SEEN = "{type: builtin, name: seen, builtin: modality_gain, options: {without: video_blanked, needed: 1}}"
PATIENT = "{type: python, name: patient, entrypoint: 'tests.e2e.slow:patient'}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run over a small corpus; where it is kept is told by its test."""
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    corpus = write_synthetic_corpus(tmp_path_factory.mktemp("corpus"), sizes)
    root = tmp_path_factory.mktemp("recipe")
    return write_recipe(root / "run.yaml", root=root, corpus=corpus, more=MORE)


def whole_ledger(folder: Path, *, steps: int) -> None:
    """The command finds nothing, and every draw was trained."""
    ledger = folder / "ledger.jsonl"
    checked = start("check", str(ledger), program="learner.ledger")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert check_ledger(ledger).fates == {"trained": 4 * steps}
    assert steps_of(folder) == list(range(1, steps + 1))


def test_a_run_is_rewarded_for_what_its_clips_sounds_and_pictures_tell(recipe: Path, tmp_path: Path) -> None:
    rewards = f"[{PAPER}, {READ}, {HEARD}, {SWAPPED}, {SEEN}]"
    done = start("--config", str(recipe), "--run.root", str(tmp_path), "--reward.rewards", rewards)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "test"
    whole_ledger(folder, steps=2)
    for step in (1, 2):
        groups: dict[str, list[dict[str, Any]]] = {}
        for sample in read_samples(sample_file(folder, step)):
            groups.setdefault(sample["draw"], []).append(sample)
        assert [len(samples) for samples in groups.values()] == [4] * 4
        for samples in groups.values():
            for sample in samples:
                given, facts = sample["breakdown"], sample["facts"]
                assert list(given) == ["accuracy_r1omni", "format_r1omni", "accuracy", "heard", "swapped", "seen"]
                weights = {"heard": 0.3}
                total = sum(weights.get(name, 1.0) * value for name, value in given.items())
                assert sample["reward"] == pytest.approx(total)
                # read by the label table: what is right there need not be the label letter by letter
                assert facts["heard/anchor"] == given["accuracy"]
            # behind the question alone, a record has one gap, and not none
            assert len({sample["facts"]["heard/gap"] for sample in samples}) == 1
            assert samples[0]["facts"]["heard/gap"] != 0.0
        gaps = {samples[0]["facts"]["heard/gap"] for samples in groups.values()}
        assert len(gaps) == len(groups)
    for line in lines_of(folder / "metrics.jsonl"):
        assert line["reward/heard/error_rate"] == 0
        assert line["reward/heard/latency_s"] > 0


def test_the_reward_service_killed_in_the_middle_of_a_run(recipe: Path, tmp_path: Path) -> None:
    folder, steps = tmp_path / "test", 4
    process = popen(
        *("--config", str(recipe), "--run.root", str(tmp_path), "--learner.steps", str(steps)),
        *("--reward.rewards", f"[{PAPER}, {PATIENT}]"),
    )
    killed = kill_reward_service(process, folder, phase=random.choice([2, 3]))
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out[-3000:]
    assert not psutil.pid_exists(killed)
    whole_ledger(folder, steps=steps)
    for step in range(1, steps + 1):
        for sample in read_samples(sample_file(folder, step)):
            assert sample["breakdown"]["patient"] == len(sample["text"]) / 1000


def kill_reward_service(process: Any, folder: Path, *, phase: int) -> int:
    """Kills the process of the reward actor by its pid, a moment after so many phases `reward` have begun."""
    service: psutil.Process | None = None
    while _num_begun(folder, "reward") < phase:
        assert process.poll() is None, process.communicate()[0][-3000:]
        if service is None and _num_begun(folder, "generate"):
            (service,) = [p for p in psutil.Process(process.pid).children(recursive=True) if _is_service(p)]
        time.sleep(0.002)
    assert service is not None
    # one group of four takes 0.2 s
    time.sleep(random.uniform(0, 0.2))
    assert _num_ended(folder, "reward") < phase, "the service is killed while it scores"
    os.kill(service.pid, signal.SIGKILL)
    return service.pid


def _is_service(process: psutil.Process) -> bool:
    try:
        return "RewardActor" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _num_begun(folder: Path, phase: str) -> int:
    return sum(e.get("phase") == phase and e["event"] == "begin" for e in lines_of(folder / "events.jsonl"))


def _num_ended(folder: Path, phase: str) -> int:
    return sum(e.get("phase") == phase and e["event"] == "end" for e in lines_of(folder / "events.jsonl"))
