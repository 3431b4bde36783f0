"""A small recipe over real files, started as a user starts it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common.config.questions import QUESTION

RECIPE = """
run: {{name: test, root: {root}}}
model: {{dtype: float32}}
data:
  source: {{type: r1_omni, path: {records}}}
  cold_start: {{type: r1_omni, path: {corpus}/cold_start.json}}
  heldout: {{type: r1_omni, path: {corpus}/heldout.json}}
  max_frames: 8
  max_audio_s: 4.0
  max_pixels: 12544
sft: {{steps: 30, examples_per_step: 8, optimizer: {{lr: 2.0e-3}}}}
rollout:
  group_size: 4
  max_model_len: 512
  max_num_seqs: 16
  kv_cache_gib: 0.25
  sampling: {{max_tokens: 40}}
learner:
  num_ranks: 2
  steps: 2
  groups_per_step: 4
  optimizer: {{lr: 3.0e-4, schedule: constant}}
  checkpoint: {{every_steps: 1}}
"""


def write_recipe(path: Path, *, root: Path, corpus: Path, records: Path | None = None, more: str = "") -> Path:
    """The configuration file of a run."""
    text = RECIPE.format(root=root, corpus=corpus, records=records or corpus / "train.json")
    path.write_text(text + more)
    return path


def write_records(path: Path, files: list[str]) -> Path:
    """R1-Omni's JSON over these files."""
    turns = [{"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"}, {"from": "gpt", "value": "happy"}]
    path.write_text(json.dumps([{"video": f, "conversations": turns} for f in files]))
    return path


def command(*arguments: str, program: str = "learner.main") -> list[str]:
    """`python -m learner.main` with these, or another program."""
    return [sys.executable, "-m", program, *arguments]


def environment(**more: str) -> dict[str, str]:
    """Of the command."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(*arguments: str, program: str = "learner.main", **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, to its end."""
    whole = command(*arguments, program=program)
    return subprocess.run(whole, capture_output=True, text=True, env=environment(**env), timeout=500, check=False)


def popen(*arguments: str, program: str = "learner.main") -> subprocess.Popen[str]:
    """The command in a session of its own; its output comes with its errors."""
    return subprocess.Popen(
        command(*arguments, program=program),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the metrics hold a step."""
    while step not in steps_of(folder):
        assert process.poll() is None, process.communicate()[0][-2000:]
        time.sleep(0.05)


def steps_of(folder: Path) -> list[int]:
    """The steps in the metrics, in order."""
    return [line["step"] for line in lines_of(folder / "metrics.jsonl")]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Whole JSON lines; nothing of a file that is not there."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]
