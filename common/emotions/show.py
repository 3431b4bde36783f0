"""The command line of `common.labels`, which prints the reading of a text."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from common.runtime.command import exit_code

PURPOSE = "Shows which emotions a text names, which of them it denies, and which class it is in each taxonomy."
ReadFn = Callable[[str, Sequence[str]], dict[str, Any]]


def run(argv: Sequence[str] | None, *, read: ReadFn, taxonomies: Sequence[str]) -> int:
    """Returns 0, or 2 for an unknown taxonomy."""
    return exit_code(lambda: _run(argv, read, taxonomies))


def _run(argv: Sequence[str] | None, read: ReadFn, taxonomies: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m common.labels", description=PURPOSE, allow_abbrev=False)
    parser.add_argument("text", help="text to read; - is the standard input")
    parser.add_argument("--taxonomy", help=f"one taxonomy instead of all: {', '.join(taxonomies)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    options = parser.parse_args(argv)
    text = sys.stdin.read() if options.text == "-" else options.text
    reading = read(text, [options.taxonomy] if options.taxonomy else taxonomies)
    if options.json:
        sys.stdout.write(json.dumps(reading, ensure_ascii=False) + "\n")
    else:
        _show(reading)
    return 0


def _show(reading: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from common.runtime.screen import Screen

    console = Screen(highlight=False)
    table = Table("characters", "words", "emotion", "", title="Mentions", title_justify="left")
    for each in reading["mentions"]:
        denied = Text("denied", style="red") if each["is_negated"] else Text("")
        table.add_row(f"{each['start']}-{each['end']}", Text(each["surface"]), each["emotion"], denied)
    console.print(table if reading["mentions"] else "The text names no emotion.")
    classes = Table("taxonomy", "class", "named", title="Classes", title_justify="left")
    for name, read in reading["classes"].items():
        classes.add_row(name, Text(read["normalised"] or "none", style="bold"), ", ".join(read["named"]))
    console.print(classes)
