"""Classes of a record's labels and of an answer, by the label table of the evaluation."""

from common.errors import DatasetError
from common.labels import classes_in, normalised, readable_answer
from common.types import Record


def class_answered(completion: str, taxonomy: str) -> str | None:
    """The single class that the answer names; None for none or several."""
    return normalised(readable_answer(completion), taxonomy)


def class_of_label(record: Record) -> str:
    """The class of a record's label; raises `DatasetError` for no class or several."""
    name = normalised(record.label, record.taxonomy)
    if name is None:
        raise _no_class(record, record.label)
    return name


def classes_of_labels(record: Record) -> frozenset[str]:
    """The classes of all labels of a record; raises `DatasetError` for a label without a class."""
    named: set[str] = set()
    for label in record.labels or (record.label,):
        classes = classes_named(label, record.taxonomy)
        if not classes:
            raise _no_class(record, label)
        named |= classes
    return frozenset(named)


def classes_named(text: str, taxonomy: str) -> set[str]:
    """Every class that a text names and does not deny; in `open`, also a single unknown word."""
    named = set(classes_in(text, taxonomy))
    if not named and (only := normalised(text, taxonomy)) is not None:
        named.add(only)
    return named


def _no_class(record: Record, label: str) -> DatasetError:
    return DatasetError(
        f"record {record.prompt_id}: label must name a class of the taxonomy {record.taxonomy}, got {label!r}; "
        "correct the label, or set its taxonomy"
    )
