"""`python -m learner.main` as a user starts it, over real files, some of them bad."""

import gzip
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.datasets.r1_omni import QUESTION
from common.datasets.synthetic import write_synthetic_corpus

TINY_RUN = """
run: {{name: test, root: {root}}}
model: {{dtype: float32, tiny: {{habit_steps: 60}}}}
data:
  source: {{type: r1_omni, path: {records}}}
  max_frames: 24
  max_audio_s: 4.0
  max_pixels: 12544
rollout:
  group_size: 4
  max_model_len: 1024
  max_num_seqs: 16
  kv_cache_gib: 0.25
  sampling: {{max_tokens: 32}}
learner:
  num_ranks: 2
  steps: 2
  groups_per_step: 4
  optimizer: {{lr: 1.0e-3, schedule: constant}}
"""


def start(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "learner.main", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        timeout=500,
        check=False,
    )


def write_records(path: Path, files: list[str]) -> Path:
    """R1-Omni's JSON over these files."""
    turns = [{"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"}, {"from": "gpt", "value": "happy"}]
    path.write_text(json.dumps([{"video": f, "conversations": turns} for f in files]))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good clips, and four that are missing, truncated, not a video, and empty."""
    folder = tmp_path_factory.mktemp("corpus")
    write_synthetic_corpus(folder, num_clips=5, seed=3)
    whole = (folder / "clips" / "00000.mp4").read_bytes()
    (folder / "clips" / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "clips" / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "clips" / "empty.mp4").write_bytes(b"")
    return folder


BAD = {
    "clips/missing.mp4": "missing",
    "clips/truncated.mp4": "undecodable",
    "clips/text.mp4": "undecodable",
    "clips/empty.mp4": "empty",
}


def test_a_run_over_good_and_bad_clips_trains_and_names_every_reason(corpus: Path, tmp_path: Path) -> None:
    good = [f"clips/{i:05d}.mp4" for i in range(5)]
    records = write_records(corpus / "mixed.json", [*BAD, *good])
    config = tmp_path / "run.yaml"
    config.write_text(TINY_RUN.format(root=tmp_path, records=records))
    # one epoch and a half: every bad clip is met
    done = start("--config", str(config), "--learner.steps", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    for proof in ("proof: receipt", "proof: rehearsal", "proof: canary", "run folder", "one completion"):
        assert proof in done.stdout
    folder = tmp_path / "test"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    check_ledger(folder, num_trained=12)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2, 3]
    for line in metrics:
        assert line["learner/logprob_diff/mean"] < 1e-5
        assert line["learner/logprob_diff/max"] < 1e-3
        assert line["rollout/staleness/max"] == 0
        assert line["publish/canary/engine-0/max"] < 1e-4
    for step in (1, 2, 3):
        with gzip.open(folder / "samples" / f"step_{step:06d}.jsonl.gz", "rt") as file:
            samples = [json.loads(line) for line in file]
        assert len(samples) == 4 * 4
        assert all(s["version_spans"][0]["version"] == step - 1 for s in samples)


def check_ledger(folder: Path, *, num_trained: int) -> None:
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
    config = tmp_path / "run.yaml"
    config.write_text(TINY_RUN.format(root=tmp_path, records=records))
    done = start("--config", str(config))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "only failures" in last
    assert "media/missing x1" in last
    assert "media/undecodable x2" in last


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
    config = tmp_path / "run.yaml"
    config.write_text(TINY_RUN.format(root=tmp_path, records=corpus / "records.json"))
    done = start("--config", str(config), "--model.tiny.habit_steps", "0", *override)
    assert done.returncode == 2
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 1, errors
    assert all(word in errors[0] for word in words)
    assert "engines" not in done.stdout


def test_an_unwritable_root_ends_in_one_line(corpus: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    config = tmp_path / "run.yaml"
    config.write_text(TINY_RUN.format(root=blocker / "runs", records=corpus / "records.json"))
    done = start("--config", str(config))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "run.root must be writable" in done.stderr
