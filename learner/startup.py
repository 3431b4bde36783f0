"""What the commands make sure of before they import anything of ours: standard library alone.

Our packages have plain names, and the directory that a run is started from comes before installed packages: a
`reward/` or a `common.py` there would be imported in place of ours, and fail in ways that name neither.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("common", "deploy", "learner", "reward", "rollout")


def run_guarded(command: Callable[[], int]) -> int:
    """The exit code of a command that imports our packages; 2 where one of them is not ours."""
    if (problem := foreign_package()) is not None:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    from common.runtime.command import quietly

    return quietly(command)


def foreign_package() -> str | None:
    """Says which package would not be ours; None where all are."""
    home = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = find_spec(package)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != home / package / "__init__.py":
            found = origin.parent if origin and origin.name == "__init__.py" else origin or "nothing"
            return (
                f"the package {package!r} must be omni-rlvr's in {home}, got {found}; rename the other, or start "
                "from another directory"
            )
    return None
