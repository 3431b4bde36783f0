"""Numbers in documents: each measured number has a reference, and reads as the stored value.

    The demo ended at 62.9 %<!-- figure: demo-seed-0.war_grpo --> of the clips.

    <!-- figures: demo, of 0123456789ab -->
    ... a table of `tests.figures.tables`, with the digest of the files that it was made from ...
    <!-- end of figures -->

A number looks measured if it has a decimal point, an exponent, separated thousands or a unit; on the page of
measurements every number of two digits does. Other numbers (a setting, a published result) are listed in
`docs/figures/not-measured.json`, with the words around them and a reason.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from tests.figures.stored import FOLDER, ROOT, Stored, figure, like, load
from tests.figures.tables import TABLES, digest

DOCUMENTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = "docs/measurements.md"
NOT_MEASURED = FOLDER / "not-measured.json"
UNIT = r"(?:%|(?:ms|s|min|minutes?|seconds?|hours?|days?|[KMGT]i?B|\w+/s|times|points?)\b)"
NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"
SHOWN = rf"\d+ min \d+ s|{NUMBER}(?:\s?{UNIT})?"
QUOTE = re.compile(rf"(?P<shown>{SHOWN})<!-- figure: (?P<key>[^>]+?) -->")
TABLE = re.compile(r"<!-- figures: (?P<name>[\w-]+), of \w* -->\n(?P<body>.*?)<!-- end of figures -->", re.DOTALL)
NAKED = re.compile(rf"(?<![\w.,/#=^-])(?:{SHOWN})(?!\w|\.\d)")
VERSION = re.compile(
    r"\b(?:Python|Ray|vLLM|DeepSpeed|transformers|torch|PyTorch|CUDA|Ubuntu)(?:(?:,| and| to| or)? \d+(?:\.\d+)+)+"
)
CODE = re.compile(r"^```.*?^```|^    [^\n]*$|`[^`]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)


def rewritten(text: str, stored: Stored) -> str:
    """The document with every quoted figure and table updated from the stored values."""
    text = QUOTE.sub(lambda m: like(m["shown"], figure(stored, m["key"])) + m[0].removeprefix(m["shown"]), text)
    return TABLE.sub(lambda m: table(m["name"], stored), text)


def table(name: str, stored: Stored) -> str:
    """A generated table between its markers."""
    source = TABLES[name]
    begin = f"<!-- figures: {name}, of {digest(source.files, stored)} -->"
    return f"{begin}\n\n{source.render(stored)}\n\n<!-- end of figures -->"


def faults(name: str, text: str, stored: Stored, not_measured: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Faults of the numbers in a document, one line each.

    Args:
        name: path of the document, relative to the root.
        text: text of the document.
        stored: the measured values.
        not_measured: `document`, `text` and `reason` of numbers without a reference.
    """
    try:
        new = rewritten(text, stored)
    except (KeyError, IndexError, ValueError) as error:
        yield f"{name}: a reference must name a figure in docs/figures, in a unit that it has, got {error}"
        return
    for number, (old_line, new_line) in enumerate(zip(text.split("\n"), new.split("\n"), strict=False), start=1):
        if old_line != new_line:
            yield f"{name}:{number}: must read {new_line!r}, got {old_line!r}; run python -m tests.figures --write"
            break
    else:
        if text != new:
            yield f"{name}: a table must be as generated; run python -m tests.figures --write"
    prose = text
    # code first: what is blanked at the start of a line looks like code
    for pattern in (CODE, TABLE, QUOTE, VERSION):
        prose = pattern.sub(_blank, prose)
    yield from _references_apart(name, prose)
    for entry in not_measured:
        if entry["document"] == name:
            words = re.compile(r"\s+".join(map(re.escape, entry["text"].split())))
            if not any(True for match in words.finditer(prose) if _measured_looking(name, match[0])):
                yield f"{NOT_MEASURED.name}: {entry['text']!r} must stand in {name} with a number; remove the entry"
            prose = words.sub(_blank, prose)
    for match in _measured_looking(name, prose):
        line = prose.count("\n", 0, match.start()) + 1
        yield (
            f"{name}:{line}: {match[0]!r} must have a reference behind it, such as "
            "<!-- figure: demo-seed-0.war_grpo -->, or an entry in docs/figures/not-measured.json"
        )


def _references_apart(name: str, prose: str) -> Iterator[str]:
    for match in re.finditer(r"<!-- (?:figures?:|end of figures)[^>]*-->", prose):
        yield f"{name}: {match[0]} must stand directly behind a number, or around a table"


def _measured_looking(name: str, prose: str) -> list[re.Match[str]]:
    smallest = 2 if name == PAGE else 99
    return [m for m in NAKED.finditer(prose) if not m[0].isdigit() or len(m[0]) >= smallest]


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def faults_of_all() -> list[str]:
    """Faults of the numbers in all documents."""
    stored, not_measured = load(), json.loads(NOT_MEASURED.read_text())
    names = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
    lines = [
        f"{NOT_MEASURED.name}: a document must exist, got {entry['document']!r}"
        for entry in not_measured
        if entry["document"] not in names
    ]
    for name, path in zip(names, DOCUMENTS, strict=True):
        lines += faults(name, path.read_text(), stored, not_measured)
    return lines
