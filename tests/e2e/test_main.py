"""`python -m learner.main` as a user starts it, over real files, some of them bad."""

import gzip
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from common.labels import answered, normalised
from tests.e2e.support import start, write_recipe, write_records
from tests.support.serialized import difference, read_golden, run_names


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good clips in three splits, and four that are missing, truncated, not a video, and empty."""
    folder = tmp_path_factory.mktemp("corpus")
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=5, num_validation=0, num_heldout=7)
    write_synthetic_corpus(folder, sizes)
    whole = (folder / good_clips(folder)[0]).read_bytes()
    (folder / "clips" / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "clips" / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "clips" / "empty.mp4").write_bytes(b"")
    return folder


def good_clips(corpus: Path) -> list[str]:
    """Of the split that trains."""
    return [record["video"] for record in json.loads((corpus / "train.json").read_text())]


BAD = {
    "clips/missing.mp4": "missing",
    "clips/truncated.mp4": "undecodable",
    "clips/text.mp4": "undecodable",
    "clips/empty.mp4": "empty",
}


def test_a_recipe_over_good_and_bad_clips_trains_judges_and_names_every_reason(
    corpus: Path, tmp_path: Path
) -> None:
    records = write_records(corpus / "mixed.json", [*BAD, *good_clips(corpus)])
    write_records(corpus / "heldout_mixed.json", [*good_clips(corpus), "clips/text.mp4"])
    config = write_recipe(tmp_path / "run.yaml", root=tmp_path, corpus=corpus, records=records)
    # one epoch and a half: every bad clip is met
    done = start(
        *("--config", str(config), "--learner.steps", "3", "--evaluation.policies", "[cold_start, grpo]"),
        *("--data.heldout.path", str(corpus / "heldout_mixed.json")),
        *("--data.validation", f"{{type: r1_omni, path: {corpus / 'heldout.json'}}}"),
        *("--evaluation.every_checkpoints", "2", "--learner.checkpoint.keep", "1"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in ("proof: rehearsal", "proof: canary", "tensorboard --logdir", "what the grpo policy says", "WAR"):
        assert part in done.stdout
    folder = tmp_path / "test"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for stage in ("sft", "grpo", "validation", "eval"):
        assert list((folder / "tensorboard" / stage).glob("events.*"))
    check_fates(folder, num_trained=12)
    check_steps(folder)
    check_judgement(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["grpo_steps"], summary["publishes"], summary["canary_failures"]) == (3, 3, 0)
    assert summary["num_heldout"] == 6
    assert summary["logprob_diff_mean"] < 1e-5
    check_best(folder, summary)
    assert difference(read_golden("run_folder"), run_names(folder)) == []


def check_best(folder: Path, summary: dict[str, Any]) -> None:
    """Every second checkpoint was evaluated, and the last; the best of them is kept beside the newest."""
    evaluated = {
        int(path.stem.removeprefix("validation_")): json.loads(path.read_text())
        for path in (folder / "eval").glob("validation_*.json")
    }
    assert {step: j["policy_version"] for step, j in evaluated.items()} == {2: 2, 3: 3}
    war, uar = ({step: j["recognition"][n]["value"] for step, j in evaluated.items()} for n in ("war", "uar"))
    best = max(war, key=lambda step: (uar[step], war[step], step))
    assert (summary["best_step"], summary["best_war"], summary["best_uar"]) == (best, war[best], uar[best])
    kept = {int(path.name.removeprefix("step_")) for path in (folder / "checkpoints").glob("step_*")}
    assert kept == {best, 3}


def check_steps(folder: Path) -> None:
    """Metrics and samples of three on-policy steps."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3]
    for line in metrics:
        assert line["learner/logprob_diff/max"] < 1e-3
        assert line["rollout/staleness/max"] == 0
        assert line["publish/canary/engine-0/max"] < 1e-4
    for step in (1, 2, 3):
        with gzip.open(folder / "samples" / f"step_{step:06d}.jsonl.gz", "rt") as file:
            samples = [json.loads(line) for line in file]
        assert len(samples) == 4 * 4
        assert all(s["version_spans"][0]["version"] == step - 1 for s in samples)


def check_judgement(folder: Path) -> None:
    """A clip that could not be asked counts as wrong, and says why."""
    evaluated = json.loads((folder / "eval" / "grpo.json").read_text())
    assert (evaluated["recognition"]["num_clips"], evaluated["num_failed"], evaluated["policy_version"]) == (
        6,
        1,
        3,
    )
    clips = [json.loads(line) for line in (folder / "eval" / "grpo.jsonl").read_text().splitlines()]
    assert {clip["policy_version"] for clip in clips} == {3}
    assert clips[-1]["text"] == ""
    assert clips[-1]["failure"].startswith("media/undecodable")
    right = sum(normalised(answered(clip["text"]), "r1_omni") == clip["label"] for clip in clips)
    assert evaluated["recognition"]["war"]["value"] == pytest.approx(right / 6)


def check_fates(folder: Path, *, num_trained: int) -> None:
    """Every draw has one fate; the bad clips' reasons are there."""
    entries: list[dict[str, Any]] = [json.loads(x) for x in (folder / "ledger.jsonl").read_text().splitlines()]
    fates: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if "fate" in entry:
            fates.setdefault(entry["draw"], []).append(entry)
    asked = {e["draw"] for e in entries if e.get("event") == "asked"}
    assert set(fates) == asked
    assert all(len(f) == 1 for f in fates.values())
    assert sum(f[0]["fate"] == "trained" for f in fates.values()) == num_trained
    reasons = {
        d.split("/", 1)[1].rsplit("/", 1)[0]: f[0]["reason"] for d, f in fates.items() if f[0]["fate"] == "failed"
    }
    assert reasons == BAD


@pytest.mark.long
def test_a_run_whose_clips_all_fail_says_so_and_stops(corpus: Path, tmp_path: Path) -> None:
    records = write_records(corpus / "bad.json", list(BAD))
    config = write_recipe(tmp_path / "run.yaml", root=tmp_path, corpus=corpus, records=records)
    done = start("--config", str(config), "--sft.steps", "0")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "only failures" in last
    assert "media/missing x1" in last
    assert "media/undecodable x2" in last
    assert "data.source.media_root" in last


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "words"),
    [
        (("--learner.num_cpus", "900"), ("CPUs", "900", "lower")),
        (("--rollout.num_gpus", "8"), ("GPUs", "8", "lower")),
    ],
)
def test_more_than_the_cluster_has_ends_before_engines_start(
    override: tuple[str, str], words: tuple[str, ...], corpus: Path, tmp_path: Path
) -> None:
    config = write_recipe(tmp_path / "run.yaml", root=tmp_path, corpus=corpus)
    done = start("--config", str(config), *override)
    assert done.returncode == 2
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1, errors
    assert all(word in errors[0] for word in words)
    assert "engines" not in done.stdout


def test_an_unwritable_root_ends_in_one_line(corpus: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    config = write_recipe(tmp_path / "run.yaml", root=blocker / "runs", corpus=corpus)
    done = start("--config", str(config))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "run.root must be writable" in done.stderr
