"""What `tests/conftest.py` does to a session: missing packages, seconds by folder."""

import re
import subprocess
import sys
from pathlib import Path

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import pytest
sys.exit(pytest.main(["-p", "tests.conftest", "-p", "no:cacheprovider", "-ra", sys.argv[1]]))
"""
FILES = {
    "one/test_imports_torch.py": "import torch\n\ndef test_first(): ...\n",
    "one/test_later.py": """
import pytest

def test_torch_in_the_body():
    import torch

@pytest.fixture
def tensor():
    import torch.nn

def test_torch_in_a_fixture(tensor): ...

def test_another_package():
    import no_such_package

def test_wrong():
    try:
        import torch
    except ImportError:
        pass
    assert False

@pytest.mark.xfail
def test_known(): assert False
""",
    "two/test_right.py": "import time\n\ndef test_right(): time.sleep(0.1)\n",
}


def test_only_what_needs_a_missing_package_is_skipped_and_counted(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert "2 failed, 1 passed, 3 skipped, 1 xfailed" in lines[-1]
    assert sum(line.endswith("needs torch") for line in lines) == 2
    assert any(line.startswith("skipped for want of ") and line.endswith(": 1 files, 2 tests") for line in lines)
    # on a busy machine a tenth of a second takes longer
    times = [re.search(r"two +1 tests +(\d+\.\d) s", line) for line in lines]
    assert [float(time[1]) >= 0.1 for time in times if time] == [True]
