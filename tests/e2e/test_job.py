"""`ray job submit -- python -m learner.main`, on a cluster started as Ray starts it: with token authentication."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.long


def free_port() -> int:
    """A port that was just free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node; the environment of its clients."""
    scripts = Path(sys.executable).parent
    env = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path_factory.mktemp("auth") / "token"),
        "OMNI_RLVR_RUNS": str(tmp_path_factory.mktemp("runs")),
        "RAY_ENABLE_AUTO_CONNECT": "0",
    }
    env.pop("RAY_ADDRESS", None)
    Path(env["RAY_AUTH_TOKEN_PATH"]).write_text("a" * 64)
    port, dashboard = free_port(), free_port()
    temp = f"/tmp/ray-test-{port}"
    ray = str(scripts / "ray")
    command = [ray, "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={temp}"]
    # blocking: what it started ends with it, and nothing else does
    head = subprocess.Popen(
        [*command, "--block"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert head.stdout is not None
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    assert head.poll() is None
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    env["RAY"] = ray
    yield env
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(temp, ignore_errors=True)


def submit(cluster: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Submits the demo from the repository and waits for it."""
    command = [cluster["RAY"], "job", "submit", "--working-dir", "."]
    command += ["--runtime-env-json", json.dumps({"env_vars": {"OMNI_RLVR_RUNS": cluster["OMNI_RLVR_RUNS"]}})]
    command += ["--", "python", "-m", "learner.main", "--config", "deploy/configs/demo.yaml", *arguments]
    while True:
        done = subprocess.run(
            command, env=cluster, cwd=REPOSITORY, capture_output=True, text=True, timeout=540, check=False
        )
        # a head node answers before its agent does; the test's own time limit bounds this
        if "No available agent" not in done.stderr:
            return done


def test_the_demo_runs_as_a_job_and_its_folder_survives(cluster: dict[str, str]) -> None:
    done = submit(cluster, "--learner.steps", "2", "--run.name", "job")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "proof: rehearsal" in done.stdout
    lines = (Path(cluster["OMNI_RLVR_RUNS"]) / "job" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_a_relative_root_is_refused_in_a_job_with_the_reason(cluster: dict[str, str]) -> None:
    done = submit(cluster, "--run.root", "runs")
    assert done.returncode != 0
    assert "run.root must be absolute under `ray job submit`" in done.stdout + done.stderr
