"""The demo as it ships, and what is left of its gain when one thing is taken away."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.labels import answered, normalised
from learner.ledger import check_ledger
from tests.e2e.control import swap_audio
from tests.e2e.support import lines_of
from tests.unit.common.datasets.synthetic.test_leaks import bound, centroid_hits, facts_of, ridge_hits, standardized

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
DEMO = "deploy/configs/demo.yaml"


def say(capsys: pytest.CaptureFixture[str], title: str, values: dict[str, Any]) -> None:
    """On the screen, whether the test passes or not."""
    with capsys.disabled():
        print(f"\n{title} {json.dumps(values)}")


def run_control(root: Path, name: str, *arguments: str, program: str = "learner.main") -> dict[str, Any]:
    """The recipe with changes, its last policy asked with picture and sound alone; its summary."""
    return run_demo(root, name, *arguments, "--evaluation.controls", "[]", program=program)


def run_demo(root: Path, name: str, *arguments: str, program: str = "learner.main") -> dict[str, Any]:
    """The recipe, with changes; its summary."""
    command = [
        sys.executable,
        "-m",
        *program.split(),
        "--config",
        DEMO,
        "--run.root",
        str(root),
        "--run.name",
        name,
    ]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=1400, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return json.loads((root / name / "summary.json").read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs here."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def demo(root: Path) -> dict[str, Any]:
    """The demo's summary."""
    return run_demo(root, "demo")


def from_the_same_cold_start(root: Path, name: str) -> Path:
    """A run folder that has the demo's model, corpus and cold start, and its result."""
    for part in ("cold_start", "corpus"):
        shutil.copytree(root / "demo" / part, root / name / part)
    for model in (root / "demo").glob("model-*"):
        shutil.copytree(model, root / name / model.name)
    (root / name / "eval").mkdir()
    for policy in ("untrained", "cold_start"):
        for suffix in ("json", "jsonl"):
            shutil.copy(root / "demo" / "eval" / f"{policy}.{suffix}", root / name / "eval")
    return root / name


def recall_by_modality(folder: Path, policy: str) -> dict[str, float]:
    """Share of held-out clips answered right, by the modality that tells their label."""
    (metadata,) = (folder / "corpus").glob("*/metadata.jsonl")
    tells = {m["clip_id"]: m["label_from"] for m in map(json.loads, metadata.read_text().splitlines())}
    right: dict[str, list[bool]] = {}
    for clip in map(json.loads, (folder / "eval" / f"{policy}.jsonl").read_text().splitlines()):
        answer = normalised(answered(clip["text"]), "dfew")
        right.setdefault(tells[clip["id"]], []).append(answer == clip["label"])
    return {kind: sum(values) / len(values) for kind, values in right.items()}


def test_the_demo_meets_its_targets(demo: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(capsys, "the demo", demo)
    assert demo["war_grpo"] - demo["war_cold_start"] >= 0.15
    assert demo["format_rate_grpo"] > 0.95
    assert demo["logprob_diff_mean"] < 1e-5
    assert demo["logprob_diff_max"] < 1e-3
    assert demo["canary_failures"] == 0
    assert demo["num_heldout"] >= 280
    assert demo["peak_memory_bytes"] < 12 * 2**30
    assert check_ledger(root / "demo" / "ledger.jsonl").faults == ()


def test_nothing_about_the_demos_files_gives_a_label_away(demo: dict[str, Any], root: Path) -> None:
    (corpus,) = (root / "demo" / "corpus").iterdir()
    facts, labels = facts_of(corpus)
    features = standardized(list(facts.values()))
    assert len(labels) == 560
    assert centroid_hits(features, labels) < bound(560)
    assert ridge_hits(features, labels) < bound(560)


def test_shuffled_rewards_teach_nothing(
    demo: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from_the_same_cold_start(root, "shuffled")
    control = run_control(root, "shuffled", program="tests.e2e.control shuffled_rewards")
    say(capsys, "shuffled rewards", {k: control[k] for k in ("war_cold_start", "war_grpo")})
    assert abs(control["war_grpo"] - demo["war_cold_start"]) <= 0.04


def test_another_clips_audio_loses_the_pairs_that_only_the_voice_tells_apart(
    demo: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = from_the_same_cold_start(root, "other-audio")
    (corpus,) = (root / "demo" / "corpus").iterdir()
    train = swap_audio(corpus, root / "swapped")
    source = f"{{type: r1_omni, path: {train}}}"
    heldout = f"{{type: r1_omni, path: {corpus / 'heldout.json'}}}"
    cold_start = f"{{type: r1_omni, path: {corpus / 'cold_start.json'}}}"
    control = run_control(
        *(root, "other-audio", "--data.source", source, "--data.heldout", heldout, "--data.cold_start", cold_start)
    )
    with_audio, without = recall_by_modality(root / "demo", "grpo"), recall_by_modality(folder, "grpo")
    say(capsys, "another clip's audio", {"war_grpo": control["war_grpo"], "by_modality": without})
    say(capsys, "its own audio", {"war_grpo": demo["war_grpo"], "by_modality": with_audio})
    assert without["voice"] <= with_audio["voice"] - 0.15


def test_supervised_training_on_the_same_labels_is_reported(
    demo: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (corpus,) = (root / "demo" / "corpus").iterdir()
    control = run_control(
        *(root, "supervised", "--model.path", str(root / "demo" / "cold_start" / "hf")),
        *("--data.source", f"{{type: r1_omni, path: {corpus / 'train.json'}}}"),
        *("--data.cold_start", f"{{type: r1_omni, path: {corpus / 'train.json'}}}"),
        *("--data.heldout", f"{{type: r1_omni, path: {corpus / 'heldout.json'}}}"),
        *("--sft.steps", str(demo["grpo_steps"]), "--sft.optimizer.lr", "4.0e-4"),
        *("--learner.steps", "1", "--evaluation.policies", "[cold_start]"),
    )
    # named cold_start there, as it is the policy that a reinforcement would start from
    say(capsys, "supervised on the same labels", {"war": control["war_cold_start"], "grpo": demo["war_grpo"]})
    # reported, not evaluated: but over as many updates and the same clips
    assert len(lines_of(root / "supervised" / "sft" / "metrics.jsonl")) == demo["grpo_steps"]
    assert control["num_heldout"] == demo["num_heldout"]
