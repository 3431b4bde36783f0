"""`ray job submit -- python -m learner.main`, on a cluster started as Ray starts it: with token authentication."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic import write_synthetic_corpus
from learner.ledger import check_ledger
from tests.e2e.support import steps_of, write_recipe

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.long
AGENT_WAIT_S = 90
"""A head node answers before its agent, which takes jobs, is up."""


def free_port() -> int:
    """A port that was just free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A head node, and the environment of its clients."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.ray = str(python.parent / "ray")
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in {"RAY_ADDRESS", "PYTHONPATH"}},
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "OMNI_RLVR_RUNS": str(folder / "runs"),
            "RAY_ENABLE_AUTO_CONNECT": "0",
        }
        (folder / "token").write_text("a" * 64)
        dashboard = free_port()
        self.temp = f"/tmp/ray-test-{dashboard}"
        ports = {"port": free_port(), "dashboard-port": dashboard}
        # an agent of another Ray on this machine has the usual ones
        ports |= {"dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port()}
        command = [self.ray, "start", "--head", f"--temp-dir={self.temp}", "--block"]
        # blocking: what it started ends with it, and nothing else does
        self.head = subprocess.Popen(
            [*command, *(f"--{name}={port}" for name, port in ports.items())],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.head.stdout is not None
        for line in self.head.stdout:
            if "Ray runtime started" in line:
                break
        assert self.head.poll() is None
        self.env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"

    def submit(self, folder: Path, *command: str, job: str | None = None) -> subprocess.CompletedProcess[str]:
        """Submits a command from a folder; waits for it, unless the job is given a name."""
        name = ["--submission-id", job, "--no-wait"] if job else []
        runtime_env = json.dumps({"env_vars": {"OMNI_RLVR_RUNS": self.env["OMNI_RLVR_RUNS"]}})
        deadline = time.monotonic() + AGENT_WAIT_S
        while True:
            done = self._ray(
                folder, "submit", *name, "--working-dir", ".", "--runtime-env-json", runtime_env, "--", *command
            )
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                return done

    def stop(self, job: str) -> None:
        """Ends a job."""
        assert self._ray(REPOSITORY, "stop", job).returncode == 0

    def _ray(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.ray, "job", *arguments],
            env=self.env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    def end(self) -> None:
        """Ends the head node."""
        self.head.terminate()
        self.head.wait(timeout=60)
        assert self.head.stdout is not None
        self.head.stdout.close()
        shutil.rmtree(self.temp, ignore_errors=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of each split."""
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    return write_synthetic_corpus(tmp_path_factory.mktemp("corpus"), sizes)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head node of this environment."""
    made = Cluster(Path(sys.executable), tmp_path_factory.mktemp("cluster"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment that holds the wheel, its dependencies being those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, "."],
        cwd=REPOSITORY,
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    (wheel,) = folder.glob("omni_rlvr-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, wheel], check=True
    )
    base = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    ray = python.parent / "ray"
    ray.write_text(f"#!{python}\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n")
    ray.chmod(0o755)
    return python


def recipe(folder: Path, corpus: Path, *, more: str = "") -> Path:
    """`my.yaml` in a directory of the user's own."""
    path = write_recipe(folder / "my.yaml", root=Path("/replaced"), corpus=corpus, more=more)
    path.write_text(path.read_text().replace("root: /replaced", 'root: ""'))
    return path


MAIN = ("python", "-m", "learner.main", "--config")


def test_from_the_repository_a_job_that_is_stopped_goes_on(cluster: Cluster, corpus: Path) -> None:
    name = f"job-{uuid.uuid4().hex[:6]}"
    path = REPOSITORY / f"{name}.yaml"
    folder = Path(cluster.env["OMNI_RLVR_RUNS"]) / name
    arguments = (*MAIN, path.name, "--run.name", name, "--learner.steps", "6")
    try:
        recipe(REPOSITORY, corpus).rename(path)
        assert cluster.submit(REPOSITORY, *arguments, job=name).returncode == 0
        deadline = time.monotonic() + 400
        while len(steps_of(folder)) < 3:
            assert time.monotonic() < deadline, "no step was taken"
            time.sleep(0.2)
        cluster.stop(name)
        path.write_text("# another comment\n" + path.read_text())
        done = cluster.submit(REPOSITORY, *arguments)
    finally:
        path.unlink(missing_ok=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "resumed after step" in done.stdout
    # the job's directory was a copy that Ray deletes; what it wrote is here
    assert steps_of(folder) == [1, 2, 3, 4, 5, 6]
    assert check_ledger(folder / "ledger.jsonl").faults == ()


def test_a_relative_root_is_refused_in_a_job_with_the_reason(cluster: Cluster) -> None:
    done = cluster.submit(REPOSITORY, *MAIN, "deploy/configs/demo.yaml", "--run.root", "runs")
    assert done.returncode != 0
    assert "run.root must be absolute under `ray job submit`" in done.stdout + done.stderr


def test_from_an_empty_directory_with_the_wheel_and_a_reward_of_ones_own(
    installed: Path, corpus: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def brevity(completion, label):\n    return 0.5 if len(completion) < 40 else 0.25\n"
    )
    paper = "{type: builtin, name: accuracy_r1omni}, {type: builtin, name: format_r1omni}"
    rewards = f"[{paper}, {{type: python, name: brevity, entrypoint: 'my_rewards:brevity'}}]"
    recipe(tmp_path, corpus, more=f"reward: {{rewards: {rewards}}}\n")
    cluster = Cluster(installed, tmp_path_factory.mktemp("wheel-cluster"))
    try:
        done = cluster.submit(tmp_path, *MAIN, "my.yaml", "--run.name", "mine")
    finally:
        cluster.end()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    folder = Path(cluster.env["OMNI_RLVR_RUNS"]) / "mine"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(0.25 <= line["reward/brevity/mean"] <= 0.5 for line in lines)
