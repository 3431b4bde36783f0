"""The seams between the planes: what the loop and the publisher are given, wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

from common.types import (
    Completion,
    Condition,
    Failure,
    Generation,
    Group,
    MediaRef,
    ProcessedPrompt,
    Prompt,
    Record,
    SamplingSpec,
    Score,
    TensorReceipt,
)


class GenerateFn(Protocol):
    """Samples a group for a prompt; a failure is data."""

    async def __call__(self, prompt: Prompt) -> Generation | Failure: ...


class GenerateTogetherFn(Protocol):
    """Samples the groups of a whole batch in lockstep, so that the same batch gives the same bits."""

    async def __call__(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]: ...


class ScoreFn(Protocol):
    """Scores every completion of a prompt, or fails as a whole: never some of them."""

    async def __call__(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure: ...


class ScoreLogprobsFn(Protocol):
    """Scores the likelihood of a text as the policy's answer to a record's question, in a condition of its clip.

    Returns the log-probability of `text` in nats, summed over its tokens, at temperature 1 without truncation,
    after the record's prompt and `prefix`; `prefix` and `text` are tokenised separately. Answers may be cached
    while the policy_version stays the same.

    Raises:
        MediaError: the clip, or the one whose sound is used, cannot be decoded.
        EngineError: no engine can score.
    """

    async def __call__(self, record: Record, *, condition: Condition, prefix: str, text: str) -> float: ...


class PrepareFn(Protocol):
    """Decodes and processes a record's clip: a handle to it and its length in tokens, or a failure.

    `lost` is a handle of an earlier call whose clip is no longer in memory: it is never returned again.
    """

    async def __call__(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure: ...


class PrepareInConditionFn(Protocol):
    """`PrepareFn` for a condition; `sound` is the record whose sound replaces the clip's."""

    async def __call__(
        self,
        record: Record,
        *,
        condition: Condition = "av",
        sound: Record | None = None,
        lost: MediaRef | None = None,
    ) -> tuple[MediaRef, int] | Failure: ...


class WeightReceiver(Protocol):
    """One engine, as the publisher and the pool see it."""

    name: str

    async def generate(
        self,
        prompt: ProcessedPrompt | MediaRef,
        *,
        sampling: SamplingSpec,
        group_size: int,
        seed: int,
        deadline_s: float,
        is_probe: bool = False,
    ) -> Generation | Failure: ...

    async def generate_together(
        self,
        prompts: Sequence[ProcessedPrompt | MediaRef],
        *,
        sampling: SamplingSpec,
        group_size: int,
        seeds: list[int],
        deadline_s: float,
    ) -> list[Generation | Failure]: ...

    async def score(
        self,
        prompt: ProcessedPrompt | MediaRef,
        *,
        prefix_ids: Sequence[int],
        text_ids: Sequence[int],
        deadline_s: float,
        is_alone: bool = False,
    ) -> float | Failure: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    async def start_update(self, *, is_alone: bool = False) -> None:
        """Opens an update; with `is_alone` it is no part of a transfer, which may run at the same time."""
        ...

    async def receive(self, path: str, bucket: int) -> None: ...

    async def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        """Loads tensors of the checkpoint that the engine started from, with a rehearsal's noise mixed in.

        Loads nothing if the checkpoint lacks one of them: the receipt of `finish_update` shows it.
        """
        ...

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]: ...


class EngineFleet(Protocol):
    """The engines of a run, as the publisher sees them. Engines come and go between any two calls.

    An engine serves requests only after a delivery of the fleet's version: a transfer whose members were fixed
    before it began, and whose receipt and canary it passed. One delivery is open at a time.
    """

    async def until_joining(self) -> None:
        """Waits until an engine needs a rehearsal or a delivery.

        Raises:
            FleetError: too few engines can still start.
        """
        ...

    def unverified(self) -> Sequence["WeightReceiver"]:
        """Warm engines that no rehearsal has verified since they started."""
        ...

    def candidates(self) -> Sequence["WeightReceiver"]:
        """All warm engines, verified or not."""
        ...

    def rehearsed(self, engine: "WeightReceiver") -> None:
        """A rehearsal verified the engine; nothing happens if it was verified before or is lost."""
        ...

    def begin_delivery(self, version: int, *, only_joining: bool = False) -> Sequence["WeightReceiver"]:
        """Fixes the members of a transfer: all verified engines, or those that have no delivery of the standing
        version.
        """
        ...

    def delivered(self, engine: "WeightReceiver") -> None:
        """A member passed receipt and canary; nothing happens if it was lost meanwhile."""
        ...

    def end_delivery(self) -> None:
        """Closes the transfer, whose version the fleet then has; engines without it stop serving."""
        ...

    def abort_delivery(self) -> None:
        """Closes a transfer that the ranks could not finish; its members stop serving until the next delivery."""
        ...

    def lost(self, engine: "WeightReceiver", *, reason: str) -> None:
        """Condemns an engine: its answers are void, its processes are ended, and its slot starts another."""
        ...


class WeightSenders(Protocol):
    """All learner ranks, as the publisher sees them: every call is a collective."""

    async def send_bucket(self, bucket: int) -> list[TensorReceipt]: ...

    async def perturb(self, *, scale: float, nonce: int, names: Sequence[str] | None) -> None: ...

    async def restore(self, *, names: Sequence[str] | None = None) -> None: ...

    async def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]: ...


class TrainFn(Protocol):
    """Runs one optimizer step over all ranks on a batch of groups; returns its metrics."""

    async def __call__(self, groups: Sequence[Group]) -> dict[str, float]: ...
