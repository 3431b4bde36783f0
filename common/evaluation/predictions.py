"""Predictions of a policy, one JSON line each: `{"id", "dataset", "fold", "label", "text"}` and optional keys.

Nothing is passed over: a line that lacks something, stands twice or was never asked is a mistake with its place.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from common.errors import DatasetError
from common.runtime.atomic_files import atomic_write_text

AS_GIVEN = "av"
"""The condition of an unchanged clip."""
REMEDY = 'a line is {"id": "00001", "dataset": "dfew", "fold": 1, "label": "sad", "text": "<think>..."}'


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    id: str
    """Unique within dataset, fold and condition."""
    dataset: str
    fold: int | None
    """Fold of a cross-validation, counted from 1; None without folds."""
    label: str
    text: str
    """The whole completion; empty after a failure."""
    labels: tuple[str, ...] = ()
    """Every label of a clip that has several."""
    taxonomy: str | None = None
    """Taxonomy of the label; None if the dataset's name determines it."""
    video: str | None = None
    """Path of the clip."""
    audio: str | None = None
    """Path of its sound."""
    policy_version: int | None = None
    condition: str = AS_GIVEN
    """Condition of the clip."""
    failure: str | None = None
    """Reason of a missing answer; it counts as wrong."""
    place: str = field(default="", compare=False)
    """File and line."""
    more: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    """Other keys of the line."""

    @property
    def key(self) -> tuple[str, int | None, str, str]:
        """Key of the prediction; it is unique."""
        return self.dataset, self.fold, self.condition, self.id


_TEXTS, _TEXTS_OR_NULL = ("id", "dataset", "label", "text"), ("taxonomy", "video", "audio", "failure")
_INTEGERS_OR_NULL = ("fold", "policy_version")
_REQUIRED = ("id", "dataset", "fold", "label", "text")
_OPTIONAL = ("labels", "taxonomy", "video", "audio", "policy_version", "failure")
_KNOWN = {*_TEXTS, *_TEXTS_OR_NULL, *_INTEGERS_OR_NULL, "labels", "condition"}


def read_predictions(path: str | Path) -> list[Prediction]:
    """Raises `DatasetError` if the file is unreadable or empty, or a line is invalid or repeated."""
    predictions: dict[tuple[str, int | None, str, str], Prediction] = {}
    for place, values in json_lines(path):
        prediction = _prediction(values, place)
        before = predictions.setdefault(prediction.key, prediction)
        if before is not prediction:
            raise DatasetError(
                f"{place}: an id must stand once within dataset, fold and condition, got {prediction.id!r} of "
                f"{_group(prediction)} at {before.place} too; take one out"
            )
    if not predictions:
        raise DatasetError(f"predictions must have lines, got none in {str(path)!r}; {REMEDY}")
    return list(predictions.values())


def json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file with file and line, without blank lines; raises `DatasetError`."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DatasetError(f"{path} must be a readable JSONL file, got: {error.strerror}; give its path") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            values: Any = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{place}: a line must be JSON, got {_start(line)}: {error}; correct it") from error
        if not isinstance(values, dict):
            raise DatasetError(f"{place}: a line must be a JSON object, got {_start(line)}; correct it")
        yield place, cast("dict[str, Any]", values)


def require_clips(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Compares predictions with the requested clips, in each dataset, fold and condition.

    `path` is a JSON list or JSONL of clips, each with an `id`, or `video` as in R1-Omni's JSON, and perhaps its
    `dataset` and `fold`.

    Raises:
        DatasetError: a clip has no prediction, or a prediction no clip.
    """
    places, used = _asked(path), set[tuple[str, ...]]()
    groups: dict[tuple[str, int | None, str], dict[str, Prediction]] = {}
    for p in predictions:
        groups.setdefault((p.dataset, p.fold, p.condition), {})[p.id] = p
    for (dataset, fold, condition), there in groups.items():
        keys = {*_parts(dataset, fold)}
        expected = {key: place for key, place in places.items() if keys.issuperset(key[1:])}
        used |= expected.keys()
        names = {key[0] for key in expected}
        unknown = next((p for name, p in there.items() if name not in names), None)
        if unknown is not None:
            raise DatasetError(
                f"{unknown.place}: a prediction must be of a clip in {path}, got {unknown.id!r} of "
                f"{_group(unknown)}; take it out or give the clips that were asked"
            )
        missing = [(place, key[0]) for key, place in expected.items() if key[0] not in there]
        if missing:
            raise _unanswered(missing, where=f"{_named(dataset, fold)} in the condition {condition}")
    elsewhere = [(place, " ".join(key)) for key, place in places.items() if key not in used]
    if elsewhere:
        raise _unanswered(elsewhere, where="any condition")


def _unanswered(missing: Sequence[tuple[str, str]], *, where: str) -> DatasetError:
    place, name = missing[0]
    return DatasetError(
        f"{place}: every clip must have a prediction, got none of {name!r} for {where} and of {len(missing) - 1} "
        "more; ask them, leave them out of the clips, or say the clips' dataset and fold"
    )


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Writes a file for `read_predictions` atomically; makes its folder, for its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write_text(path, "".join(json.dumps(line_of(p), ensure_ascii=False) + "\n" for p in predictions))


def line_of(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a JSON line for `read_predictions`."""
    values = {name: getattr(prediction, name) for name in (*_REQUIRED, "condition", *_OPTIONAL)}
    values["labels"] = list(prediction.labels) or None
    known = {name: value for name, value in values.items() if value is not None or name == "fold"}
    return {**known, **prediction.more}


def _prediction(values: Mapping[str, Any], place: str) -> Prediction:
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise DatasetError(f"{place}: a prediction must have {', '.join(missing)}, got {_start(values)}; {REMEDY}")
    for name in (*_TEXTS, *_TEXTS_OR_NULL):
        _require(name, values.get(name), str, place=place, may_be_null=name in _TEXTS_OR_NULL)
    for name in _INTEGERS_OR_NULL:
        _require(name, values.get(name), int, place=place, may_be_null=True)
    for name in ("id", "dataset", "label"):
        if not values[name]:
            raise DatasetError(f"{place}: {name} must not be empty, got ''; fill it in")
    labels: Any = values.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in cast("list[Any]", labels)):
        raise DatasetError(f"{place}: labels must be a list of texts, got {labels!r}; correct it")
    condition = values.get("condition", AS_GIVEN)
    _require("condition", condition, str, place=place, may_be_null=False)
    if not condition:
        raise DatasetError(f"{place}: condition must not be empty, got ''; fill it in or leave it out")
    if (fold := values["fold"]) is not None and fold < 1:
        raise DatasetError(f"{place}: fold must be >= 1 or null, got {fold}; folds are counted from 1")
    chosen = {name: values[name] for name in _KNOWN & values.keys() if name not in ("labels", "condition")}
    return Prediction(
        **chosen,
        labels=tuple(cast("list[str]", labels)),
        condition=condition,
        place=place,
        more={name: value for name, value in values.items() if name not in _KNOWN},
    )


def _require(name: str, value: Any, kind: type, *, place: str, may_be_null: bool) -> None:
    if value is None and may_be_null:
        return
    # JSON's true is an int to Python
    if not isinstance(value, kind) or isinstance(value, bool):
        what = {str: "a text", int: "an integer"}[kind] + (" or null" if may_be_null else "")
        raise DatasetError(f"{place}: {name} must be {what}, got {value!r}; correct it")


def _asked(path: str | Path) -> dict[tuple[str, ...], str]:
    """Positions of the clips by id, or by id, dataset and fold if given."""
    places: dict[tuple[str, ...], str] = {}
    for place, values in _clips(Path(path)):
        name = values.get("id", values.get("prompt_id", values.get("video")))
        if not isinstance(name, str) or not name:
            raise DatasetError(f"{place}: a clip must have an id or a video, got {_start(values)}; fill it in")
        key = (name, *(f"{part}={values[part]}" for part in ("dataset", "fold") if part in values))
        if key in places:
            raise DatasetError(
                f"{place}: each clip must stand once, got {name!r} at {places[key]} too; take one out"
            )
        places[key] = place
    if not places:
        raise DatasetError(f"--clips must hold clips, got none in {str(path)!r}; give the clips that were asked")
    return places


def _clips(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix != ".json":
        yield from json_lines(path)
        return
    try:
        items: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"--clips must be a readable file, got {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise DatasetError(f"--clips must be JSON, got {str(path)!r}: {error}; correct it") from error
    if not isinstance(items, list):
        raise DatasetError(f"--clips must hold a list, got a {type(items).__name__} in {str(path)!r}; correct it")
    for number, item in enumerate(cast("list[Any]", items)):
        if not isinstance(item, dict):
            raise DatasetError(f"{path}: clip {number} must be an object, got {item!r}; correct it")
        yield f"{path}: clip {number}", cast("dict[str, Any]", item)


def _parts(dataset: str, fold: int | None) -> tuple[str, str]:
    return f"dataset={dataset}", f"fold={fold}"


def _group(prediction: Prediction) -> str:
    return f"{_named(prediction.dataset, prediction.fold)}, {prediction.condition}"


def _named(dataset: str, fold: int | None) -> str:
    return dataset if fold is None else f"{dataset}, fold {fold}"


def _start(of: Any) -> str:
    text = of.decode(errors="replace") if isinstance(of, bytes) else json.dumps(of, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
