"""What the table makes of a text, for a reader: the command of `common.labels`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from common.labels import TAXONOMIES, classes_in, classes_of, mentions, normalised
from common.runtime.command import exit_code

PURPOSE = "Shows which emotions a text names, which of them it denies, and which class it is in each taxonomy."


def reading_of(text: str, taxonomies: Sequence[str]) -> dict[str, Any]:
    """Mentions, and by taxonomy the one class and all that are named."""
    return {
        "text": text,
        "mentions": [
            {
                "start": each.start,
                "end": each.end,
                "surface": each.surface,
                "emotion": each.emotion,
                "is_negated": each.is_negated,
            }
            for each in mentions(text)
        ],
        "classes": {
            name: {"normalised": normalised(text, name), "named": list(classes_in(text, name))}
            for name in taxonomies
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    Returns:
        0, or 2 for a taxonomy that there is not.
    """
    return exit_code(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m common.labels", description=PURPOSE, allow_abbrev=False)
    parser.add_argument("text", help="what to read; - reads the standard input")
    parser.add_argument("--taxonomy", help=f"only this one: {', '.join(TAXONOMIES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(argv)
    if options.taxonomy is not None:
        classes_of(options.taxonomy)
    text = sys.stdin.read() if options.text == "-" else options.text
    reading = reading_of(text, [options.taxonomy] if options.taxonomy else list(TAXONOMIES))
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
    found = Table("characters", "words", "emotion", "", title="Mentions", title_justify="left")
    for each in reading["mentions"]:
        denied = Text("denied", style="red") if each["is_negated"] else Text("")
        found.add_row(f"{each['start']}-{each['end']}", Text(each["surface"]), each["emotion"], denied)
    console.print(found if reading["mentions"] else "The text names no emotion.")
    classes = Table("taxonomy", "class", "named", title="Classes", title_justify="left")
    for name, read in reading["classes"].items():
        classes.add_row(name, Text(read["normalised"] or "none", style="bold"), ", ".join(read["named"]))
    console.print(classes)
