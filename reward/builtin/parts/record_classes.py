"""Classes that a record's labels name and that an answer names, by the table that the evaluation reads."""

from functools import lru_cache

from common.errors import DatasetError
from common.labels import classes_in, normalised, readable_answer
from common.types import Record


def class_answered(completion: str, taxonomy: str) -> str | None:
    """The single class that the answer names; None for none or several."""
    return normalised(readable_answer(completion), taxonomy)


def class_of_label(record: Record) -> str:
    """The class of a record's label; raises `DatasetError` for no class or several."""
    return _class_of_label(record.label, record.taxonomy, record.prompt_id)


@lru_cache(maxsize=65_536)
def _class_of_label(label: str, taxonomy: str, prompt_id: str) -> str:
    name = normalised(label, taxonomy)
    if name is None:
        raise _no_class(label, taxonomy, prompt_id)
    return name


def classes_of_labels(record: Record) -> frozenset[str]:
    """The classes of all labels of a record; raises `DatasetError` for a label without a class."""
    named: set[str] = set()
    for label in record.labels or (record.label,):
        classes = classes_named(label, record.taxonomy)
        if not classes:
            raise _no_class(label, record.taxonomy, record.prompt_id)
        named |= classes
    return frozenset(named)


def classes_named(text: str, taxonomy: str) -> set[str]:
    """Every class that a text names and does not deny; in `open`, also a single unknown word."""
    named = set(classes_in(text, taxonomy))
    if not named and (only := normalised(text, taxonomy)) is not None:
        named.add(only)
    return named


def _no_class(label: str, taxonomy: str, prompt_id: str) -> DatasetError:
    return DatasetError(
        f"record {prompt_id}: label must name a class of the taxonomy {taxonomy}, got {label!r}; mend the label, "
        "or set the taxonomy that it is of"
    )
