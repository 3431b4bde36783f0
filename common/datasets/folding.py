"""The labels of a record in the classes of a taxonomy."""

from dataclasses import replace

from common.labels import TAXONOMIES, normalised
from common.types import Record


def in_taxonomy(record: Record, taxonomy: str) -> Record | None:
    """A record with its labels as classes of the taxonomy; None if the taxonomy has none of them."""
    classes = TAXONOMIES[taxonomy]
    if classes is None:
        return record
    if record.label in classes and not record.labels:
        return replace(record, taxonomy=taxonomy)
    labels = record.labels or (record.label,)
    folded = [normalised(label, taxonomy) for label in labels]
    known = tuple(dict.fromkeys(label for label in folded if label is not None))
    if not known:
        return None
    return replace(
        record,
        label=record.label if record.label in classes else known[0],
        labels=known if len(known) > 1 else (),
        taxonomy=taxonomy,
    )
