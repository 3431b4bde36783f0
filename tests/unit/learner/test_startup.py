"""The commands where a user's directory holds a package of our names: one line that says so, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from learner.startup import PACKAGES, foreign_package

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which our packages lie where a wheel puts them, behind the directory of the start."""
    site = tmp_path / "site-packages"
    site.mkdir()
    for package in PACKAGES:
        (site / package).symlink_to(REPOSITORY / package)
    return os.environ | {"PYTHONPATH": str(site)}


def start(command: str, folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command from a directory."""
    return subprocess.run(
        [sys.executable, "-m", command, *arguments], cwd=folder, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", ["learner.main", "learner.sft"])
@pytest.mark.parametrize("foreign", ["common/__init__.py", "reward/__init__.py", "deploy/__init__.py", "reward.py"])
def test_a_foreign_package_is_one_line_that_names_it(
    tmp_path: Path, installed: dict[str, str], command: str, foreign: str
) -> None:
    user = tmp_path / "user"
    (user / foreign).parent.mkdir(parents=True)
    (user / foreign).write_text("")
    done = start(command, user, installed, "--dry-run")
    found = user / foreign if foreign == "reward.py" else (user / foreign).parent
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: the package {foreign.split('/')[0].removesuffix('.py')!r} must be ")
    assert f"got {found}; rename the other" in done.stderr


@pytest.mark.parametrize("command", ["learner.main", "learner.sft"])
def test_folders_that_are_no_packages_are_in_nobodys_way(
    tmp_path: Path, installed: dict[str, str], command: str
) -> None:
    user = tmp_path / "user"
    (user / "reward").mkdir(parents=True)
    (user / "my_rewards.py").write_text("")
    done = start(command, user, installed, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_here_every_package_is_ours() -> None:
    assert foreign_package() is None


def test_the_check_comes_before_anything_else_and_needs_nothing() -> None:
    code = "import sys, learner.startup; print(sorted(m for m in sys.modules if m.split('.')[0] in %r))"
    done = subprocess.run(
        [sys.executable, "-c", code % (PACKAGES,)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['learner', 'learner.startup']"
