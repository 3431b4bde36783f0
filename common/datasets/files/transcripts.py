"""Transcripts of clips, from a file or folder beside a corpus.

JSONL of `{"name", "text"}`, CSV of `name,text`, or a folder of `NAME.srt`. A name is the clip's id or its last part
without suffix; `00025` and `25` are the same clip.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from common.datasets.files.split_lists import stem_of
from common.datasets.files.tables import read_csv, read_jsonl, read_text, resolved
from common.errors import DatasetError

TIMES = re.compile(r"\d+:\d\d:\d\d[,.]\d+\s*-->.*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcripts:
    """Texts by clip."""

    files: tuple[str, ...] = ()
    by_name: Mapping[str, str] = field(default_factory=dict[str, str])

    def of(self, prompt_id: str) -> str | None:
        """The transcript of a clip; None if unknown."""
        return self.by_name.get(_key(prompt_id))


def read_transcripts(path: str | None) -> Transcripts:
    """Raises `DatasetError` if the path is missing or has another form, or a name is repeated."""
    if path is None:
        return Transcripts()
    source = resolved(path)
    texts: dict[str, str] = {}
    for place, name, text in _entries(source):
        if _key(name) in texts:
            raise DatasetError(f"{place}: a clip must have one transcript, got a second of {name!r}; remove one")
        texts[_key(name)] = text
    files = tuple(map(str, sorted(source.glob("*.srt")))) if source.is_dir() else (str(source),)
    return Transcripts(files=files, by_name={name: text for name, text in texts.items() if text})


def spoken(subtitles: str) -> str:
    """The words of an SRT file, without numbers, times and tags, in one line."""
    lines = [line.strip() for line in subtitles.splitlines()]
    # a number is a counter only before a time: a speaker may say "1984"
    counters = {i - 1 for i, line in enumerate(lines) if TIMES.match(line) and i and lines[i - 1].isdigit()}
    words = " ".join(line for i, line in enumerate(lines) if i not in counters and not TIMES.match(line))
    return " ".join(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", words).split())


def _entries(source: Path) -> Iterator[tuple[str, str, str]]:
    """(place, name, text) of every transcript."""
    suffix = source.suffix.lower()
    if source.is_dir():
        files = sorted(source.glob("*.srt"))
        if not files:
            raise DatasetError(
                f"{source}: a folder of transcripts must hold NAME.srt files, got none; name another"
            )
        for file in files:
            yield str(file), file.stem, spoken(read_text(file))
    elif suffix in (".csv", ".jsonl"):
        for row in read_csv(source, columns=("name", "text")) if suffix == ".csv" else read_jsonl(source):
            name, text = row.cells.get("name"), row.cells.get("text")
            if not isinstance(name, str) or not isinstance(text, str):
                raise DatasetError(
                    f'{row.place}: a line must be {{"name", "text"}}, both texts, got {str(row.cells)[:60]!r}; '
                    "correct it"
                )
            yield row.place, name, text.strip()
    else:
        raise DatasetError(
            f"transcripts must be a .jsonl or .csv file or a folder of srt files, got {str(source)!r}; name one"
        )


def _key(name: str) -> str:
    stem = stem_of(name)
    return str(int(stem)) if re.fullmatch(r"\d+", stem) else stem
