"""Documents name files, tests, classes, links, commands and keys that exist."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from common.config.describe import describe_options
from common.config.load import load_config
from tests.figures.quotes import DOCUMENTS
from tests.unit.test_architecture import FILES, ROOT, name_of, tree_of

TEXTS = {name_of(path): path.read_text() for path in DOCUMENTS}
MAP = TEXTS["ARCHITECTURE.md"]
SOURCES = [*FILES, *(ROOT / "tests").rglob("*.py")]
ELSEWHERE = {"my_rewards.py", "grpo.py"}
"""Files of a user and of R1-Omni."""


@pytest.fixture(scope="module")
def defined() -> set[str]:
    """Names of all functions and classes."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for f in SOURCES for node in ast.walk(tree_of(f)) if isinstance(node, definitions)}


@pytest.mark.parametrize("document", TEXTS)
def test_a_document_names_only_files_and_tests_that_exist(document: str, defined: set[str]) -> None:
    files = {name_of(f) for f in SOURCES}
    named = set(re.findall(r"(?<![\w/.*])[\w/]+\.py\b", TEXTS[document])) - ELSEWHERE
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)} == set()
    tests = set(re.findall(r"\btest_\w+\b(?!\.py|/)", TEXTS[document]))
    assert tests - defined - {Path(name).stem for name in named} == set()


@pytest.mark.parametrize("document", TEXTS)
def test_links_of_a_document_lead_to_files_and_headings(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", TEXTS[document]):
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


@pytest.mark.parametrize("document", TEXTS)
def test_commands_of_a_document_have_modules_and_keys_that_exist(document: str) -> None:
    modules = set(re.findall(r"python -m ([a-z_.]*[a-z_])", TEXTS[document]))
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()
    keys = {option.key for section in describe_options() for option in section.options}
    assert set(re.findall(r"--((?:[a-z_]+\.)+[a-z_]+)", TEXTS[document])) - keys == set()


def test_every_page_is_in_the_navigation() -> None:
    pages = re.findall(r"^  - (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_configuration_of_the_readme_loads(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        re.findall(r"^```yaml\n(.*?)^```", TEXTS["README.md"], re.DOTALL | re.MULTILINE)[0]
    )
    config = load_config(str(tmp_path / "my.yaml"), [])
    assert (config.run.name, config.rollout.group_size) == ("first", 8)


def test_the_map_names_only_classes_that_exist(defined: set[str]) -> None:
    named = set(re.findall(r"`(?:\w+\.)?([A-Z][a-z]+[A-Z]\w+)", MAP))
    assert len(named) > 5
    assert named - defined == set()


def test_the_map_names_every_folder_of_modules() -> None:
    folders = {name_of(f.parent) for f in FILES} | {name_of(f.parent) for f in ROOT.glob("tests/*/__init__.py")}
    rows = re.findall(r"^\| (`.*?) \|", MAP, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w/]+)`", row)}
    assert (folders - named, named - folders) == (set(), set())
