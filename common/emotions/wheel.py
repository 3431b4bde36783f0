"""Plutchik's wheel of emotions: the place of a word, for open vocabularies.

Eight primary emotions in a circle, each in three intensities, and the 24 dyads of two of them (Plutchik, 1980 and
2001); `neutral` is the centre. `Wheel.load(path)` reads another table of the form of `wheel.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.emotions.folding import folded
from common.emotions.mentions import lemma
from common.errors import ConfigError

PACKAGED = Path(__file__).with_suffix(".json")
Name = Annotated[str, Field(min_length=1)]


class _Dyad(BaseModel):
    model_config = ConfigDict(extra="forbid")
    of: tuple[Name, Name]
    words: list[Name]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")
    source: str
    primaries: dict[Name, dict[Name, list[Name]]]
    dyads: dict[Name, _Dyad]
    centre: list[Name]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    level1: str
    """A primary emotion, the first of a dyad, or the word itself at the centre."""
    level2: str
    """An intensity of the primary emotion, or a dyad."""
    primaries: tuple[str, ...]
    """One, the two of a dyad, or none at the centre."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """Places by word. An unlisted word has the place of its emotion: `wrathfully` that of `angry`."""

    places: Mapping[str, Place]
    """Places by folded word."""

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Wheel":
        """Reads a wheel; the packaged one for None.

        Raises:
            ConfigError: the file is missing or malformed, a word has two places, or a dyad has an unknown primary
                emotion.
        """
        file = PACKAGED if path is None else Path(path).expanduser()
        try:
            table = _Table.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(
                f"an emotion wheel must have the form of {PACKAGED.name}, got {where!r} of {str(file)!r}: "
                f"{first['msg']}; correct it"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"an emotion wheel must be a readable JSON file, got {str(file)!r}: {error}; give another path"
            ) from error
        return cls(places=_places(table, file))

    def place(self, word: str) -> Place | None:
        """The place of a word; None if neither the wheel nor the label table has it."""
        listed = self.places.get(_key(word))
        if listed is not None:
            return listed
        emotion = lemma(word)
        return None if emotion is None else self.places.get(emotion)

    def level1(self, word: str) -> str | None:
        """The word's primary emotion: `joy` for `delighted`, `disgust` for the dyad `contempt`."""
        place = self.place(word)
        return None if place is None else place.level1

    def level2(self, word: str) -> str | None:
        """The word's intensity or dyad: `rage` for `furious`, `contempt` for `scornful`."""
        place = self.place(word)
        return None if place is None else place.level2


def _key(word: str) -> str:
    return folded(word).strip(" \t\n.,;:!?\"'*()[]{}<>。、_")


def _places(table: _Table, file: Path) -> dict[str, Place]:
    places: dict[str, Place] = {}

    def put(words: list[str], place: Place) -> None:
        # a node is a word, too, and may repeat in its own list
        for word in map(_key, dict.fromkeys(words)):
            if word in places:
                raise ConfigError(
                    f"a word must have one place in an emotion wheel, got {word!r} at {places[word].level2!r} and "
                    f"{place.level2!r} of {str(file)!r}; remove one"
                )
            places[word] = place

    for primary, intensities in table.primaries.items():
        for name, words in intensities.items():
            put([name, *words], Place(level1=primary, level2=name, primaries=(primary,)))
    for name, dyad in table.dyads.items():
        for parent in dyad.of:
            if parent not in table.primaries:
                raise ConfigError(
                    f"a dyad must be of two of {', '.join(table.primaries)}, got {parent!r} in {name!r} of "
                    f"{str(file)!r}; correct it"
                )
        put([name, *dyad.words], Place(level1=dyad.of[0], level2=name, primaries=dyad.of))
    for word in table.centre:
        put([word], Place(level1=word, level2=word, primaries=()))
    return places
