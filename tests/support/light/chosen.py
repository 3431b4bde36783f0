"""A choice that every commit makes anew and that can be repeated."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
PLANES = ("common", "deploy", "learner", "reward", "rollout")


def choose(options: Sequence[T]) -> T:
    """One of them, by the hash of the commit; without git, of the sources."""
    text = _commit()
    if not text:
        files = sorted(path for plane in PLANES for path in (ROOT / plane).rglob("*.py"))
        text = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return options[int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") % len(options)]


def _commit() -> str:
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
