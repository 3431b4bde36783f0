"""The check of our packages before a command imports them. Uses the standard library alone.

Python searches the working directory before installed packages. A `reward/` or a `common.py` there would be
imported in place of ours, and the error would name neither.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("common", "deploy", "learner", "reward", "rollout")


def run_guarded(command: Callable[[], int]) -> int:
    """Returns the exit code of a command that imports our packages; 2 if another package hides one of them."""
    if (problem := foreign_package()) is not None:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    from common.runtime.command import quietly

    return quietly(command)


def foreign_package() -> str | None:
    """The message about the first package that is not ours; None if all are."""
    home = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        spec = find_spec(package)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin != home / package / "__init__.py":
            actual = origin.parent if origin and origin.name == "__init__.py" else origin or "nothing"
            return (
                f"the package {package!r} must be omni-rlvr's in {home}, got {actual}; rename the other, or start "
                "from another directory"
            )
    return None
