"""The two comparisons of a publish: receipts, and log-probabilities of a probe."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import PublishError
from common.types import TensorReceipt

Logprobs = list[list[float]]
"""A row per probe, of all tokens of its answers; also for differences."""
MIN_SCORE = 6.0
"""Standard errors at which a rehearsal decides. On the tiny model every layer with an effect measured 8 or more."""
MIN_NOISE = 1e-7
"""The least noise of a probe: float32's rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Absolute differences of an engine's log-probabilities of the probe from the learner's."""

    mean: float
    max: float
    by_probe: tuple[float, ...]
    """Largest of each probe."""

    def exceeds(self, tolerance: float) -> bool:
        # NaN exceeds every tolerance
        return not self.max <= tolerance


def agreement_of(differences: Logprobs) -> Agreement:
    """Mean and maximum over the tokens of all probes; NaN counts as larger than any number."""
    flat = [abs(d) for probe in differences for d in probe]
    return Agreement(
        mean=sum(flat) / len(flat),
        max=_max(flat),
        by_probe=tuple(_max([abs(d) for d in probe]) for probe in differences),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The evidence of one rehearsal about one layer of one engine.

    Two explanations of the difference d between engine and learner are compared: the engine uses the new layer, and
    d is rounding; or it uses the old layer, and d is rounding plus q, the learner's own change with the old layer.
    The log of their likelihood ratio is (|d - q|^2 - |d|^2) / 2s^2, and its standard deviation |q| / s, with each
    probe's rounding s measured under the better explanation.
    """

    gain: float
    """The log-likelihood ratio, positive for the new layer."""
    power: float
    """|q|^2 / s^2; 0 if the layer changes no token."""
    num_tokens: int
    """Tokens of probes on which the layer has an effect."""

    @property
    def score(self) -> float:
        """Standard errors between the explanations."""
        return self.gain / math.sqrt(self.power) if self.power else 0.0

    @property
    def is_clear(self) -> bool:
        """True if the layer's effect exceeds rounding and the score decides."""
        # both: tokens share the rounding of their prompt, so that standard errors are too small
        return self.power >= self.num_tokens > 0 and abs(self.score) >= MIN_SCORE

    @property
    def is_followed(self) -> bool:
        return self.is_clear and self.score > 0

    @property
    def is_stale(self) -> bool:
        return self.is_clear and self.score < 0


def evidence_of(differences: Logprobs, signature: Logprobs) -> Evidence:
    """Compares an engine's differences with those of an old layer."""
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
    return [[x - y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]


def _max(values: Sequence[float]) -> float:
    return next((v for v in values if v != v), max(values))


def check_receipt(
    names: Sequence[str], manifest: Sequence[TensorReceipt], receipt: Sequence[TensorReceipt], *, engine: str
) -> None:
    """Compares the plan's names and the manifest with a worker's receipt.

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
    import torch

    return math.prod(receipt.shape) * getattr(torch, receipt.dtype).itemsize


def name_layers(layers: Sequence[Sequence[str]]) -> str:
    """One layer by its tensors, several by the common prefix of their names."""
    names = [name for layer in layers for name in layer]
    if len(layers) == 1:
        return ", ".join(names)
    paths = [name.split(".")[:-1] for name in names]
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*paths, strict=False))
    prefix = "".join(f"{column[0]}." for column in columns)
    return f"{prefix}* ({len(layers)} layers, from {names[0]} to {names[-1]})"
