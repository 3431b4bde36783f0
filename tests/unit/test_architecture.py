"""The house rules that a reader relies on, read from the sources."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANES = ("learner", "rollout", "reward")
PACKAGES = ("common", *PLANES, "deploy")
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
MAX_FILE, MAX_FUNCTION = 400, 60
MAY_PRINT = {
    "deploy/commands/command_line.py",
    "deploy/environment/repair.py",
    "learner/ledger.py",
    "reward/check.py",
    "reward/http.py",
}
TABLES = {"reward/builtin/__init__.py"}
"""Packages that hold a table of their modules."""
ROOTS = {"learner/main.py", "learner/sft.py", "learner/evaluate.py", "learner/predict.py"}


def name_of(path: Path) -> str:
    """Relative to the repository."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Parsed."""
    return ast.parse(path.read_text(), filename=str(path))


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, int], ...]:
    """(module, level) of every import, wherever in the file it stands."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level))
    return tuple(found)


def importers_of(package: str) -> set[str]:
    """Files that import a package or a part of it."""
    return {name_of(path) for path in FILES for module, _ in imports_of(path) if module.split(".")[0] == package}


def test_the_sources_were_found() -> None:
    assert len(FILES) > 40
    assert {name_of(f).split("/")[0] for f in FILES} == set(PACKAGES)


def test_no_file_is_too_long() -> None:
    lengths = {name_of(f): len(f.read_text().splitlines()) for f in FILES}
    assert {f: n for f, n in lengths.items() if n > MAX_FILE} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name_of(f)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for f in FILES
        for node in ast.walk(tree_of(f))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {f: n for f, n in lengths.items() if n > MAX_FUNCTION} == {}


def test_only_command_lines_print() -> None:
    printing = {
        name_of(f)
        for f in FILES
        for node in ast.walk(tree_of(f))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= MAY_PRINT


def test_no_module_is_a_drawer() -> None:
    assert [name_of(f) for f in FILES if f.stem in {"utils", "util", "helpers", "helper", "misc"}] == []


def test_no_import_is_relative() -> None:
    assert [name_of(f) for f in FILES for _, level in imports_of(f) if level] == []


@pytest.mark.parametrize("path", [f for f in FILES if f.name == "__init__.py"], ids=name_of)
def test_a_package_is_only_its_docstring(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1 or name_of(path) in TABLES


def test_every_folder_of_modules_is_a_package() -> None:
    assert [name_of(f) for f in {f.parent for f in FILES} if not (f / "__init__.py").exists()] == []


def test_every_module_says_what_it_is() -> None:
    assert [name_of(f) for f in FILES if not ast.get_docstring(tree_of(f))] == []


def test_planes_do_not_import_each_other() -> None:
    crossing = [
        f"{name_of(f)} imports {module}"
        for f in FILES
        for module, _ in imports_of(f)
        if (plane := name_of(f).split("/")[0]) in PLANES and module.split(".")[0] in set(PLANES) - {plane}
    ]
    assert crossing == []


def test_common_imports_none_of_the_others() -> None:
    assert {f for p in (*PLANES, "deploy") for f in importers_of(p) if f.startswith("common/")} == set()


def test_only_composition_roots_import_deploy() -> None:
    assert {f for f in importers_of("deploy") if not f.startswith("deploy/")} <= ROOTS


def test_deepspeed_is_imported_only_in_the_learner() -> None:
    importers = importers_of("deepspeed")
    assert importers
    assert {f for f in importers if not f.startswith("learner/")} == set()


def test_vllm_is_imported_only_in_the_rollout_plane() -> None:
    importers = importers_of("vllm")
    assert importers
    assert {f for f in importers if not f.startswith("rollout/")} == set()


def test_ray_is_imported_only_in_its_shells() -> None:
    importers = importers_of("ray")
    assert importers
    shells = {f for f in importers if "actor" in Path(f).stem or Path(f).stem.endswith("_ray")}
    assert {f for f in importers - shells if not f.startswith("deploy/")} <= ROOTS


def test_nothing_promises_to_be_done_later() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    everything = [*FILES, *(ROOT / "tests").rglob("*.py")]
    assert [name_of(f) for f in everything if any(m in f.read_text() for m in marks)] == []
