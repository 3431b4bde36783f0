"""The two comparisons that a publish is judged by: receipts, and log-probabilities of a probe."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import PublishError
from common.types import TensorReceipt


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far an engine's log-probabilities of the probe lie from the learner's."""

    mean: float
    max: float
    by_probe: tuple[float, ...]
    """Largest difference of each probe prompt."""


def agreement_of(differences: Sequence[Sequence[float]]) -> Agreement:
    """Mean and maximum over the tokens of all probes; NaN wins over any number."""
    flat = [d for probe in differences for d in probe]
    return Agreement(
        mean=sum(flat) / len(flat),
        max=_max(flat),
        by_probe=tuple(_max(probe) for probe in differences),
    )


def _max(values: Sequence[float]) -> float:
    return next((v for v in values if v != v), max(values))


def check_receipt(
    names: Sequence[str], manifest: Sequence[TensorReceipt], receipt: Sequence[TensorReceipt], *, engine: str
) -> None:
    """Compares what was sent, and should have been, with what a worker handed to `load_weights`.

    Raises:
        PublishError: names the first tensor that is missing, unexpected or different.
    """

    def fail(name: str, what: str) -> PublishError:
        return PublishError(
            f"receipt on {engine}: {name} must arrive as it was sent, got {what}",
            proof="receipt",
            engine=engine,
            subject=name,
        )

    sent = {r.name: r for r in manifest}
    got = {r.name: r for r in receipt}
    for name in names:
        if name not in sent:
            raise fail(name, "nothing: the sender skipped it")
        if name not in got:
            raise fail(name, "nothing: the worker never loaded it")
        if got[name] != sent[name]:
            raise fail(name, f"{_describe(got[name])} for {_describe(sent[name])}")
    for name in [*sent, *got]:
        if name not in names:
            raise fail(name, "a tensor outside the plan")
    if len(receipt) != len(got) or len(manifest) != len(sent):
        raise fail("a tensor", "the same name twice")


def _describe(receipt: TensorReceipt) -> str:
    return f"{receipt.dtype}{list(receipt.shape)} {receipt.digest}"


def num_bytes(receipt: TensorReceipt) -> int:
    """Bytes of a tensor of any of torch's dtypes."""
    import torch

    return math.prod(receipt.shape) * getattr(torch, receipt.dtype).itemsize


def name_layers(layers: Sequence[Sequence[str]]) -> str:
    """One layer by its tensors, several by what their names begin with."""
    names = [name for layer in layers for name in layer]
    if len(layers) == 1:
        return ", ".join(names)
    paths = [name.split(".")[:-1] for name in names]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*paths, strict=False))
    prefix = "".join(f"{column[0]}." for column in columns)
    return f"{prefix}* ({len(layers)} layers, from {names[0]} to {names[-1]})"
