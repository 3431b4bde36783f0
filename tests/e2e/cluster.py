"""Ray clusters with token authentication, and an environment with the wheel instead of the checkout."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("common", "deploy", "learner", "reward", "rollout")
AGENT_WAIT_S = 90
"""A head node answers before its agent, which takes jobs, is up."""


def free_port() -> int:
    """A port that was just free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A head node, further nodes on the same machine, and the environment of their clients."""

    def __init__(self, python: Path, folder: Path, *, num_cpus: int | None = None) -> None:
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
        self.port, dashboard = free_port(), free_port()
        self.temp = f"/tmp/ray-test-{dashboard}"
        self.nodes: list[subprocess.Popen[str]] = []
        # another Ray on this machine has the usual ports
        ports = {"port": self.port, "dashboard-port": dashboard, "ray-client-server-port": free_port()}
        self._start_node(
            f"--temp-dir={self.temp}", "--head", *(f"--{k}={v}" for k, v in ports.items()), num_cpus=num_cpus
        )
        self.env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"

    def add_node(self, *, num_cpus: int) -> None:
        """Starts another node."""
        self._start_node(f"--address=127.0.0.1:{self.port}", num_cpus=num_cpus)

    def _start_node(self, *options: str, num_cpus: int | None) -> None:
        ports = {"dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port()}
        cpus = [] if num_cpus is None else [f"--num-cpus={num_cpus}"]
        # blocking: what it started ends with it, and nothing else does
        node = subprocess.Popen(
            [self.ray, "start", "--block", *options, *(f"--{k}={v}" for k, v in ports.items()), *cpus],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.nodes.append(node)
        assert node.stdout is not None
        for line in node.stdout:
            if "Ray runtime started" in line:
                break
        assert node.poll() is None

    def submit(
        self, folder: Path, *command: str, job: str, waits: bool = True, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Submits a command from a folder, as a job of this name."""
        name = ["--submission-id", job, *([] if waits else ["--no-wait"])]
        runtime_env = json.dumps({"env_vars": {"OMNI_RLVR_RUNS": self.env["OMNI_RLVR_RUNS"]}})
        arguments = ("submit", *name, "--working-dir", ".", "--runtime-env-json", runtime_env, "--", *command)
        deadline = time.monotonic() + AGENT_WAIT_S
        while True:
            done = self.job(folder, *arguments, **env)
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                return done

    def stop(self, job: str) -> None:
        """Ends a job."""
        assert self.job(REPOSITORY, "stop", job).returncode == 0

    def job(self, folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`ray job` with these, from a folder."""
        return subprocess.run(
            [self.ray, "job", *arguments],
            env={**self.env, **env},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )

    def end(self) -> None:
        """Ends the nodes, the head last."""
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(timeout=60)
            assert node.stdout is not None
            node.stdout.close()
        shutil.rmtree(self.temp, ignore_errors=True)


def install_wheel(folder: Path) -> Path:
    """Makes an environment that holds the wheel; its dependencies are those of this one.

    Returns:
        Its python.
    """
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    (wheel,) = folder.glob("omni_rlvr-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    packages = site_packages(python)
    _pip("install", "--no-deps", "--target", str(packages), str(wheel))
    base = next(p for p in sys.path if p.endswith("site-packages"))
    (packages / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n")
    ray = python.parent / "ray"
    ray.write_text(f"#!{python}\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n")
    ray.chmod(0o755)
    return python


def site_packages(python: Path) -> Path:
    """Where an environment's own packages lie."""
    return next((python.parents[1] / "lib").glob("python*")) / "site-packages"


def _pip(command: str, *arguments: str) -> None:
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([sys.executable, "-m", "pip", command, "--quiet", *arguments], check=True, env=quiet)
