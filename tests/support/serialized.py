"""Names that the product writes and reads: a rename in the code must not change a file that a user has.

`python -m tests.support.serialized RUN` prints the names in a run folder.
"""

import ast
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SOURCES = ("common", "learner", "rollout", "reward", "deploy")
VALUES = frozenset({"event", "fate", "phase"})
"""Keys whose values are names too."""
# what depends on the data and not on the product
SKIPPED = frozenset({"corpus", "model-*", "tensorboard"})


def run_names(folder: Path) -> dict[str, list[str]]:
    """The files of a run folder, each with the paths of its JSON keys; numbers in file names become `0`."""
    names: dict[str, set[str]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        relative = path.relative_to(folder)
        if any(Path(relative.parts[0]).match(skipped) for skipped in SKIPPED) or ".cache" in relative.parts:
            continue
        name = re.sub(r"\d+", "0", relative.as_posix())
        names.setdefault(name, set()).update(_keys_in(path))
    return {name: sorted(keys) for name, keys in names.items()}


def _keys_in(path: Path) -> Iterator[str]:
    # files of transformers and Hugging Face are theirs
    if "hf" in path.parts[-2:] or path.parent.name == "hf":
        return
    if path.suffix == ".json":
        yield from _paths(json.loads(path.read_text()))
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            yield from _paths(json.loads(line))
    elif path.name.endswith(".jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield from _paths(json.loads(line))


def _paths(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield re.sub(r"\d+", "0", path)
            yield from _paths(inner, path)
            if key in VALUES and isinstance(inner, str):
                yield f"{path}={inner}"
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{prefix}[]")


def code_names() -> dict[str, list[str]]:
    """Names that need no run: configuration keys, the schema of the reward service, options, variables."""
    from common.config.describe import describe_options
    from common.config.reward import RewardConfig
    from reward.builtin import BUILTIN
    from reward.service import RewardService
    from reward.web.app import create_app
    from reward.web.gates import RequestLimits

    # the default of run.root depends on the machine
    options = [
        f"{option.key} {option.member or ''} {'' if option.key == 'run.root' else option.default}".rstrip()
        for section in describe_options()
        for option in section.options
    ]
    schema = create_app(
        RewardService(RewardConfig()), token=None, media_root=None, limits=RequestLimits()
    ).openapi()
    return {
        "configuration": sorted(options),
        "reward service": sorted(
            set(_paths({"paths": schema["paths"], "schemas": schema["components"]["schemas"]}))
        ),
        "built-in rewards": sorted(BUILTIN),
        "options of commands": sorted(_arguments("add_argument")),
        "environment variables": sorted(_matches(r"\bOMNI_[A-Z_]+\b")),
        "Prometheus metrics": sorted(_matches(r"^omni_\w+$")),
        "failures": sorted(_keywords({"stage", "reason"}, of="Failure")),
    }


def _trees() -> Iterator[ast.Module]:
    for package in SOURCES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ast.parse(path.read_text())


def _matches(pattern: str) -> set[str]:
    """Matches in all string constants."""
    return {
        match
        for tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for match in re.findall(pattern, node.value)
    }


def _calls(name: str) -> Iterator[ast.Call]:
    for tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name == getattr(node.func, "attr", getattr(node.func, "id", None)):
                yield node


def _arguments(name: str) -> set[str]:
    """Options that start with a dash and are literal."""
    arguments = (argument for call in _calls(name) for argument in call.args)
    return {a.value for a in arguments if isinstance(a, ast.Constant) and str(a.value).startswith("-")}


def _keywords(names: set[str], *, of: str) -> set[str]:
    return {
        f"{keyword.arg}={keyword.value.value}"
        for call in _calls(of)
        for keyword in call.keywords
        if keyword.arg in names and isinstance(keyword.value, ast.Constant)
    }


def difference(golden: dict[str, list[str]], present: dict[str, list[str]]) -> list[str]:
    """One line for each name that was added or is gone."""
    lines: list[str] = []
    for part in sorted({*golden, *present}):
        before, now = set(golden.get(part, [])), set(present.get(part, []))
        lines += [f"gone from {part}: {name}" for name in sorted(before - now)]
        lines += [f"new in {part}: {name}" for name in sorted(now - before)]
        if (part in golden) != (part in present):
            lines.append(f"{'gone' if part in golden else 'new'}: {part}")
    return lines


def read_golden(name: str) -> dict[str, list[str]]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


if __name__ == "__main__":
    print(json.dumps(run_names(Path(sys.argv[1])) if sys.argv[1:] else code_names(), indent=1))
