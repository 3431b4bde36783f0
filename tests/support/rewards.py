"""Rewards as a user might write them: slow, stuck, deadly. What they do, they do for the label `fear` alone."""

import os
import re
import time
from pathlib import Path


def sleeping(completion: str, label: str) -> float:
    """Never comes back."""
    if label == "fear":
        time.sleep(600)
    return 1.0


def stuck(completion: str, label: str) -> float:
    """Holds the interpreter: nothing else runs in its process."""
    if label == "fear":
        re.match(r"(a+)+$", "a" * 64 + "b")
    return 1.0


def deadly(completion: str, label: str) -> float:
    """Ends its process, while others are being scored."""
    time.sleep(0.5)
    if label == "fear":
        os._exit(3)
    return 1.0


def failing(completion: str, label: str) -> float:
    """Raises."""
    if label == "fear":
        raise ValueError("no fear")
    return 1.0


def telling(completion: str, label: str) -> float:
    """Writes its process's id into the file that the completion names, and the first time takes long from there."""
    path = Path(completion)
    is_first = not path.exists()
    path.write_text(str(os.getpid()))
    time.sleep(600 if is_first else 0)
    return 1.0


def counting(completion: str, label: str) -> float:
    """How many of it run at a time, read from files that it makes in the folder that the completion names."""
    own = Path(completion) / f"{time.monotonic_ns()}"
    own.touch()
    time.sleep(0.3)
    found = len(list(Path(completion).iterdir()))
    own.unlink()
    return float(found)
