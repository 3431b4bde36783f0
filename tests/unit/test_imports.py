"""What is imported when: the configuration and the help come without anything heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "numpy")
REPORT = f"import sys; print([m for m in {HEAVY!r} if m in sys.modules])"


def loaded_by(code: str) -> str:
    """Which heavy modules a fresh interpreter holds afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_types_errors_and_configuration_load_nothing_heavy() -> None:
    assert loaded_by("import common.config.load, common.types, common.protocols, common.errors") == "[]"


@pytest.mark.parametrize("argv", [["--help"], ["--rollout.group_size=1"], ["--dry-run"]])
def test_a_command_line_that_starts_nothing_loads_nothing_heavy(argv: list[str]) -> None:
    assert loaded_by(f"from deploy.commands.train import main\nmain({argv!r})") == "[]"


def test_a_model_folder_is_judged_without_torch() -> None:
    code = (
        "from common.models.registry import family_of\n"
        "try: family_of('/no/such/folder')\nexcept Exception as error: print(error)\n"
    )
    assert loaded_by(code) == "[]"
