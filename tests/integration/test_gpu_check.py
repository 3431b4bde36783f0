"""The check for GPUs, rehearsed on the CPU: every section runs, and one that fails does not stop the others."""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.gpu.check import SECTIONS, Child, check, note_failure, run

ROOT = Path(__file__).parents[2]


def test_every_section_runs_with_tiny_sizes_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu.check", "--out", str(tmp_path), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    for name in SECTIONS:
        groups = json.loads((tmp_path / f"gpu-{name}.json").read_text())
        assert all(group["figures"] for group in groups.values()), name
        assert "failed" not in groups
    step = json.loads((tmp_path / "gpu-step.json").read_text())["step"]["figures"]
    assert step["step_s"]["value"] > 0
    assert step["operations"]["value"] > 0
    agreed = json.loads((tmp_path / "gpu-agreement.json").read_text())["agreement"]["figures"]
    for name in ("float32", "bfloat16", "one_prompt_per_sample"):
        found = agreed[f"logprobs_{name}"]
        assert found["value"] <= found["target"]["at_most"], name


def test_a_section_that_fails_says_why_beside_the_figures_it_had(tmp_path: Path) -> None:
    why = Child(partial(run, "step", tmp_path / "no-model", tmp_path, "cpu"), "cpu").finish(60)
    assert why is not None
    assert "must be" in why or "No such file" in why
    (tmp_path / "gpu-step.json").write_text(json.dumps({"step": {"figures": {"a": 1}}}))
    note_failure(tmp_path, "step", why)
    groups = json.loads((tmp_path / "gpu-step.json").read_text())
    assert groups["step"] == {"figures": {"a": 1}}
    assert why in groups["failed"]["conditions"]


def test_a_section_ends_at_its_time_box() -> None:
    assert Child(partial(time.sleep, 600), "cpu").finish(1.0) == "passed its 1 s"


def test_sections_that_no_time_is_left_for_say_so(tmp_path: Path) -> None:
    failed = check(["step", "logits"], out=tmp_path, minutes=0.01, device="cpu")
    assert failed.keys() == {"step", "logits"}
    for name, why in failed.items():
        assert "not run: the 0.01 minutes were over" in why
        groups = json.loads((tmp_path / f"gpu-{name}.json").read_text())
        assert why in groups["failed"]["conditions"]
