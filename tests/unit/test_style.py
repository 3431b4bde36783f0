"""Rules of style that a count can check: sizes of folders, docstrings, names of locals."""

import ast
from collections import Counter
from pathlib import Path

from tests.unit.test_architecture import FILES, ROOT, name_of, tree_of

MAX_FILES_PER_FOLDER = 16
MAX_DOCSTRING_SHARE = 0.15
VAGUE_LOCALS = {"found", "told", "said", "asked", "given"}
"""Names that hide the value they hold."""
VAGUE_BEGINNINGS = ("What ", "Whether ", "Who ", "Whose ", "Where ", "How ")


def docstrings_of(path: Path) -> list[ast.Constant]:
    """Docstrings of the module, its classes and functions, and of fields."""
    return [
        statement.value
        for statement in ast.walk(tree_of(path))
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    ]


def test_no_folder_has_too_many_files() -> None:
    support = list((ROOT / "tests/support").rglob("*.py"))
    sizes = Counter(name_of(f.parent) for f in [*FILES, *support] if f.name != "__init__.py")
    assert {folder: n for folder, n in sizes.items() if n > MAX_FILES_PER_FOLDER} == {}


def test_docstrings_are_a_small_share_of_the_lines() -> None:
    num_lines = num_docstring_lines = 0
    for path in FILES:
        lines = path.read_text().splitlines()
        in_docstrings = {i for d in docstrings_of(path) for i in range(d.lineno - 1, d.end_lineno or d.lineno)}
        num_lines += sum(bool(line.strip()) for line in lines)
        num_docstring_lines += sum(bool(lines[i].strip()) for i in in_docstrings)
    assert num_docstring_lines <= MAX_DOCSTRING_SHARE * num_lines


def test_docstrings_begin_with_the_thing_they_describe() -> None:
    vague = [
        f"{name_of(f)}:{docstring.lineno}"
        for f in FILES
        for docstring in docstrings_of(f)
        if str(docstring.value).startswith(VAGUE_BEGINNINGS)
    ]
    assert vague == []


def test_locals_are_named_by_what_they_hold() -> None:
    # `given` is an option of modality_gain, which a configuration may name
    vague = {
        f"{name_of(f)}:{node.lineno} {node.id}"
        for f in FILES
        for node in ast.walk(tree_of(f))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE_LOCALS
    }
    assert {name.split(":")[0] for name in vague} == {"reward/builtin/modality_gain.py"}
