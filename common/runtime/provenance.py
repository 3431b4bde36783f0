"""The sources that a process runs: different versions in one run would make its results wrong."""

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import blake3

from common.errors import ClusterError, ConfigError

PACKAGES = ("common", "deploy", "learner", "reward", "rollout")


def installed_version() -> str:
    """Version of the distribution; `source` if it is not installed."""
    try:
        return version("omni-rlvr")
    except PackageNotFoundError:
        return "source"


def sources() -> dict[str, str]:
    """Digests of the source files of this process by path, and the version."""
    digests = {"version": installed_version()}
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(f"the package {package!r} must be importable, got nothing; install omni-rlvr")
        folder = Path(spec.origin).parent
        for path in sorted(folder.rglob("*.py")):
            name = str(path.relative_to(folder.parent))
            digests[name] = blake3.blake3(path.read_bytes()).hexdigest(length=8)
    return digests


def require_same_sources(ours: dict[str, str], theirs: dict[str, str], *, who: str) -> None:
    """Raises `ClusterError` with the first file in which another process's sources differ."""
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise ClusterError(
                f"{who} must run the same sources as the driver, got {theirs.get(name, 'none')} for "
                f"{ours.get(name, 'none')} in {name}; install the same omni-rlvr everywhere"
            )
