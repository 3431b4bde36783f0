"""User rewards: the code to load, its calling convention, and its calls.

| style | shape | call |
|---|---|---|
| omni | request | `f(request)` for each completion, a `RewardRequest` |
| omni | requests | `f(requests)` for a whole group |
| omni | texts | `f(completion=..., label=...)` for each completion |
| trl | trl | `f(prompts=..., completions=..., **columns)` for a whole group, as TRL's trainers do |
| verl | verl | `compute_score(data_source=..., solution_str=..., ground_truth=..., extra_info=...)` for each |

A class is constructed once with its options and called as an object or by its method `score`. A function gets its
options by name. This module imports the standard library alone: it runs in the processes of rewards.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from reward.outcome import Outcome, checked, checked_all, fault_of
from reward.request import RewardRequest

if TYPE_CHECKING:
    from common.config.reward import Style, UserCodeConfig

Shape = Literal["request", "requests", "texts", "trl", "verl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginSpec:
    """The code of a user reward; crosses processes."""

    name: str
    entrypoint: str
    style: "Style" = "auto"
    is_conversational: bool = True
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, entry: "UserCodeConfig") -> "PluginSpec":
        return cls(
            name=entry.name,
            entrypoint=entry.entrypoint,
            style=entry.style,
            is_conversational=entry.conversational,
            options=entry.options,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A loaded user reward."""

    call: Callable[..., Any]
    shape: Shape
    spec: PluginSpec
    is_async: bool
    taken: frozenset[str] = frozenset()
    """Parameters that a function's options fill; they take precedence over columns of the same name."""

    @property
    def takes_groups(self) -> bool:
        return CONVENTIONS[self.shape].takes_groups

    @property
    def decision(self) -> str:
        """The calling convention and its reason, as one line."""
        why = f"as it takes {' and '.join(sorted(CONVENTIONS[self.shape].keys))}"
        if self.spec.style != "auto":
            why = f"as style={self.spec.style} is set"
        each = "a group at a time" if self.takes_groups else "a completion at a time"
        kind = "async, " if self.is_async else ""
        return (
            f"reward {self.spec.name}: {self.spec.entrypoint} is called in {CONVENTIONS[self.shape].style} style, "
            f"{kind}{each}, {why}"
        )

    def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """Calls code that is not async for one request or a group; any exception becomes a failure."""
        try:
            return self._outcomes(self._called(requests), requests)
        except BaseException as error:  # noqa: BLE001 - the user's code, sys.exit included
            return [fault_of(error)] * len(requests)

    async def ask_async(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """`ask` for async code."""
        try:
            return self._outcomes(await self._called(requests), requests)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # the call was cancelled
            return [fault_of(error)] * len(requests)

    def _called(self, requests: Sequence[RewardRequest]) -> Any:
        request = requests[0]
        match self.shape:
            case "request":
                return self.call(request)
            case "requests":
                return self.call(list(requests))
            case "texts":
                return self.call(completion=request.completion, label=request.record.label)
            case "trl":
                columns = trl_columns(requests, is_conversational=self.spec.is_conversational)
                return self.call(**self._accepted(columns))
            case "verl":
                return self.call(**self._accepted(verl_arguments(request)))

    def _accepted(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        columns = {name: value for name, value in arguments.items() if name not in self.taken}
        return accepted_by(inspect.signature(self.call), columns)

    def _outcomes(self, answer: object, requests: Sequence[RewardRequest]) -> list[Outcome]:
        return checked_all(answer, count=len(requests)) if self.takes_groups else [checked(answer)]


def trl_columns(requests: Sequence[RewardRequest], *, is_conversational: bool) -> dict[str, list[Any]]:
    """TRL's arguments, one entry per completion; `solution` is R1-Omni's column."""
    records = [request.record for request in requests]
    texts = [request.completion for request in requests]
    questions = [record.question for record in records]
    return {
        "prompts": [[{"role": "user", "content": q}] for q in questions] if is_conversational else questions,
        "completions": [[{"role": "assistant", "content": text}] for text in texts] if is_conversational else texts,
        "completion_ids": [list(request.token_ids) for request in requests],
        "solution": [f"<answer>{record.label}</answer>" for record in records],
        "label": [record.label for record in records],
        "labels": [list(record.labels or (record.label,)) for record in records],
        "label_distribution": [record.label_distribution for record in records],
        "taxonomy": [record.taxonomy for record in records],
        "dataset": [record.dataset for record in records],
        "split": [record.split for record in records],
        "prompt_id": [record.prompt_id for record in records],
        "transcript": [record.transcript for record in records],
        "video": [record.clip.video_path for record in records],
        "audio": [record.clip.audio_path for record in records],
    }


def verl_arguments(request: RewardRequest) -> dict[str, Any]:
    """The arguments of verl's reward managers."""
    record = request.record
    return {
        "data_source": record.dataset,
        "solution_str": request.completion,
        "ground_truth": record.label,
        "extra_info": {
            "prompt_id": record.prompt_id,
            "question": record.question,
            "split": record.split,
            "labels": list(record.labels or (record.label,)),
            "taxonomy": record.taxonomy,
            "transcript": record.transcript,
            "video": record.clip.video_path,
            "audio": record.clip.audio_path,
        },
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """The parameters of one shape."""

    style: "Style"
    passed: tuple[str, ...]
    """Parameters that a call passes."""
    keys: frozenset[str]
    """Parameters by which the shape is recognized."""
    takes_groups: bool = False


def _convention(style: "Style", *passed: str, keys: Sequence[str] = (), takes_groups: bool = False) -> Convention:
    return Convention(style=style, passed=passed, keys=frozenset(keys or passed), takes_groups=takes_groups)


CONVENTIONS: Mapping[Shape, Convention] = {
    # before `request`, which in a stated style accepts any name
    "requests": _convention("omni", "requests", takes_groups=True),
    "request": _convention("omni", "request"),
    "texts": _convention("omni", "completion", "label"),
    "trl": _convention("trl", *trl_columns([], is_conversational=True), keys=["completions"], takes_groups=True),
    "verl": _convention(
        "verl", "data_source", "solution_str", "ground_truth", "extra_info", keys=["solution_str", "ground_truth"]
    ),
}


def accepted_by(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments that a signature accepts; all of them if it has `**kwargs`."""
    if any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values()):
        return arguments
    return {name: value for name, value in arguments.items() if name in signature.parameters}
