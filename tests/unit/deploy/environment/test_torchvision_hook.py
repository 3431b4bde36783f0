"""The import hook, each time in an interpreter of its own that knows no site-packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
COUNT = "sum(type(f).__name__ == 'TorchvisionSchemas' for f in sys.meta_path)"


def run(code: str) -> list[str]:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_installing_twice_adds_one_finder() -> None:
    code = f"import deploy.environment.torchvision_hook as hook\nhook.install()\nhook.install()\nprint({COUNT})"
    assert run(code) == ["1"]


FAKE_TORCH = """
import types
declared = []
class Library:
    def __init__(self, name, kind): declared.append((name, kind))
    def define(self, schema): declared.append(schema.split("(")[0])
torch = types.ModuleType("torch")
torch.library = types.SimpleNamespace(Library=Library)
sys.modules["torch"] = torch
"""


def test_operators_are_declared_once_when_torchvision_is_looked_up() -> None:
    code = f"""
{FAKE_TORCH}
import deploy.environment.torchvision_hook
import json
print(declared)
for _ in range(2):
    try: import torchvision
    except ModuleNotFoundError as error: print(error)
print(declared, {COUNT})
"""
    nothing, first, second, after = run(code)
    assert nothing == "[]"
    assert first == second == "No module named 'torchvision'"
    assert after == "[('torchvision', 'DEF'), 'nms', 'qnms'] 0"


def test_nothing_is_added_once_torchvision_is_there() -> None:
    code = f"sys.modules['torchvision'] = sys\nimport deploy.environment.torchvision_hook\nprint({COUNT})"
    assert run(code) == ["0"]


def test_the_hook_loads_nothing_heavy() -> None:
    loaded = "print([m for m in ('torch', 'numpy', 'asyncio') if m in sys.modules])"
    code = f"import deploy.environment.torchvision_hook\n{loaded}"
    assert run(code) == ["[]"]
