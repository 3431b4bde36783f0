"""The two comparisons that a publish is verified by: receipts, and log-probabilities of a probe."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import PublishError
from common.types import TensorReceipt

Logprobs = list[list[float]]
"""Of all tokens that answer a probe, probe by probe; their differences too."""
MIN_SCORE = 6.0
"""Standard errors past which a rehearsal decides. On the tiny model healthy engines and stale ones stood at 8 and
more on their sides of zero, for every layer with an effect."""
MIN_NOISE = 1e-7
"""float32's own rounding: what a probe is taken to measure at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far an engine's log-probabilities of the probe lie from the learner's."""

    mean: float
    max: float
    by_probe: tuple[float, ...]
    """Largest difference of each probe prompt."""


def agreement_of(differences: Logprobs) -> Agreement:
    """Mean and maximum size over the tokens of all probes; NaN wins over any number."""
    flat = [abs(d) for probe in differences for d in probe]
    return Agreement(
        mean=sum(flat) / len(flat),
        max=_max(flat),
        by_probe=tuple(_max([abs(d) for d in probe]) for probe in differences),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What one rehearsal says of one layer of one engine.

    Two explanations of the difference d between engine and learner are compared: the engine follows the layer, and
    d is rounding; or it kept the old one, and d is rounding on top of q, what the learner computes to see when it
    keeps the old one itself. The log of their likelihood ratio, with the rounding of each probe measured under the
    better of the two, is (|d - q|^2 - |d|^2) / 2s^2, and its standard deviation |q| / s.
    """

    gain: float
    """The log-likelihood ratio, positive for an engine that follows."""
    power: float
    """|q|^2 / s^2; 0 where the layer changes no token."""
    num_tokens: int
    """On which the layer has an effect."""

    @property
    def score(self) -> float:
        """Standard errors by which one explanation is the better."""
        return self.gain / math.sqrt(self.power) if self.power else 0.0

    @property
    def is_clear(self) -> bool:
        """Whether the layer weighs more than rounding, and the better explanation is better by far.

        Tokens share the rounding of their prompt, so that standard errors flatter: hence both.
        """
        return self.power >= self.num_tokens > 0 and abs(self.score) >= MIN_SCORE

    @property
    def is_followed(self) -> bool:
        return self.is_clear and self.score > 0

    @property
    def is_stale(self) -> bool:
        return self.is_clear and self.score < 0


def evidence_of(differences: Logprobs, signature: Logprobs) -> Evidence:
    """Compares an engine's differences with those that a layer left old would make, probe by probe."""
    gain, power, num_tokens = 0.0, 0.0, 0
    for probe, stale in zip(differences, signature, strict=True):
        if not any(stale):
            continue
        follows = sum(d * d for d in probe)
        keeps = sum((d - q) ** 2 for d, q in zip(probe, stale, strict=True))
        variance = max(min(follows, keeps) / len(probe), MIN_NOISE**2)
        gain += (keeps - follows) / (2 * variance)
        power += sum(q * q for q in stale) / variance
        num_tokens += len(probe)
    return Evidence(gain=gain, power=power, num_tokens=num_tokens)


def minus(a: Logprobs, b: Logprobs) -> Logprobs:
    """Token by token."""
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


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
