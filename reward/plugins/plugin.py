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
import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from common.errors import ConfigError
from reward.outcome import Outcome, checked, checked_all, fault_of
from reward.request import RewardRequest

if TYPE_CHECKING:
    from common.config.reward import UserCodeConfig

Style = Literal["auto", "omni", "trl", "verl"]
Shape = Literal["request", "requests", "texts", "trl", "verl"]
STYLE_OF: Mapping[Shape, Style] = {
    "request": "omni",
    "requests": "omni",
    "texts": "omni",
    "trl": "trl",
    "verl": "verl",
}
STYLE_NAMES: Mapping[Style, str] = {"omni": "an omni reward", "trl": "a trl reward", "verl": "a verl reward"}
PARAMETERS: Mapping[Shape, frozenset[str]] = {
    "request": frozenset({"request"}),
    "requests": frozenset({"requests"}),
    "texts": frozenset({"completion", "label"}),
    "trl": frozenset({"completions"}),
    "verl": frozenset({"solution_str", "ground_truth"}),
}
"""Parameters by which each shape is recognized."""
SHAPES: tuple[Shape, ...] = ("request", "requests", "texts", "trl", "verl")
CALL_METHOD = "score"
"""Method of a class whose objects are not callable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginSpec:
    """The code of a user reward; crosses processes."""

    name: str
    entrypoint: str
    style: Style = "auto"
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
        return self.shape in ("requests", "trl")

    @property
    def decision(self) -> str:
        """The calling convention and its reason, as one line."""
        why = f"as it takes {' and '.join(sorted(PARAMETERS[self.shape]))}"
        if self.spec.style != "auto":
            why = f"as style={self.spec.style} says"
        each = "a group at a time" if self.takes_groups else "a completion at a time"
        kind = "async, " if self.is_async else ""
        return (
            f"reward {self.spec.name}: {self.spec.entrypoint} is called in {STYLE_OF[self.shape]} style, "
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
        left = {name: value for name, value in arguments.items() if name not in self.taken}
        return _of_names(inspect.signature(self.call), left)

    def _outcomes(self, answer: object, requests: Sequence[RewardRequest]) -> list[Outcome]:
        return checked_all(answer, count=len(requests)) if self.takes_groups else [checked(answer)]


def trl_columns(requests: Sequence[RewardRequest], *, is_conversational: bool) -> dict[str, list[Any]]:
    """TRL's arguments, one entry per completion; `solution` is R1-Omni's column."""
    records = [request.record for request in requests]
    texts = [request.completion for request in requests]
    questions = [record.question for record in records]
    return {
        "prompts": [_message("user", q) for q in questions] if is_conversational else questions,
        "completions": [_message("assistant", text) for text in texts] if is_conversational else texts,
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


GIVEN: Mapping[Shape, tuple[str, ...]] = {
    "trl": tuple(trl_columns([], is_conversational=True)),
    "verl": ("data_source", "solution_str", "ground_truth", "extra_info"),
    "texts": ("completion", "label"),
    "request": ("request",),
    "requests": ("requests",),
}
"""Parameters that each shape passes by name."""


def load_plugin(spec: PluginSpec) -> Plugin:
    """Imports a reward, constructs it if it is a class, and decides its calling convention.

    Raises:
        ConfigError: import or construction failed, or the parameters fit no style or several.
    """
    target = _imported(spec)
    if inspect.isclass(target):
        instance = _constructed(target, spec)
        call = instance if callable(instance) else getattr(instance, CALL_METHOD)
        shape = _shape(call, spec, taken=())
    else:
        shape = _shape(target, spec, taken=tuple(spec.options))
        call = functools.partial(target, **spec.options) if spec.options else target
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    taken = frozenset[str]() if inspect.isclass(target) else frozenset(spec.options)
    return Plugin(call=call, shape=shape, spec=spec, is_async=is_async, taken=taken)


def check_plugin(spec: PluginSpec) -> None:
    """`load_plugin` without constructing a class, which may need a model and a GPU.

    Raises:
        ConfigError: as in `load_plugin`.
    """
    target = _imported(spec)
    if not inspect.isclass(target):
        _shape(target, spec, taken=tuple(spec.options))
        return
    reason = _unbound(target, dict(spec.options))
    if reason is not None:
        raise ConfigError(f"{_subject(spec)} must take its options, got {reason}; correct the options or the class")
    method = getattr(target, "__call__" if _is_callable(target) else CALL_METHOD)
    _shape(functools.partial(method, None), spec, taken=())


def _imported(spec: PluginSpec) -> Callable[..., Any]:
    module, _, name = spec.entrypoint.partition(":")
    try:
        target = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            remedy = "the module must lie in the directory that the run was started from, or be installed"
        else:
            remedy = "correct the module"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got {spec.entrypoint!r}: {reason}{_place_of(error)}; "
            f"{remedy}"
        ) from error
    is_usable = (
        _is_callable(target) or hasattr(target, CALL_METHOD) if inspect.isclass(target) else callable(target)
    )
    if not is_usable:
        what = "nothing of this name" if target is None else f"of type {type(target).__name__}"
        if inspect.isclass(target):
            what = f"a class without __call__ and {CALL_METHOD}"
        raise ConfigError(
            f"reward.rewards entrypoint must name a function or a class, got {spec.entrypoint!r}, {what}; "
            f"correct the name, or define `def {name}(completion, label)` in the module"
        )
    return cast(Callable[..., Any], target)


def _is_callable(kind: type) -> bool:
    return any("__call__" in base.__dict__ for base in kind.__mro__)


def _constructed(target: Callable[..., Any], spec: PluginSpec) -> Any:
    try:
        return target(**spec.options)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{_subject(spec)} must be made with its options, got {reason}{_place_of(error)}; "
            "correct the options or the class"
        ) from error


def _shape(call: Callable[..., Any], spec: PluginSpec, *, taken: Sequence[str]) -> Shape:
    """Determines the calling convention of a callable; `taken` are the parameters that options fill."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{_subject(spec)} must show its parameters, got {error}; wrap it in a function"
        ) from error
    is_stated = spec.style != "auto"
    candidates: list[Shape] = [shape for shape in SHAPES if not is_stated or STYLE_OF[shape] == spec.style]
    fitting: list[Shape] = [shape for shape in candidates if _fits(shape, signature, taken, is_stated=is_stated)]
    if is_stated:
        fitting = fitting[:1]
    _, _, name = spec.entrypoint.partition(":")
    for shape in fitting or candidates:
        _check_given(shape, signature, spec, taken)
    if not fitting:
        whose = f"{STYLE_NAMES[spec.style]}'s" if is_stated else "an omni, trl or verl reward's"
        raise ConfigError(
            f"reward.rewards entrypoint must have {whose} parameters, got {spec.entrypoint!r} with {signature}; "
            f"define it as `def {name}(completion, label)`, or set style"
        )
    if len(fitting) > 1:
        fits = " and ".join(f"{STYLE_OF[s]} ({', '.join(sorted(PARAMETERS[s]))})" for s in fitting)
        raise ConfigError(
            f"reward.rewards entrypoint must be of one style, got {spec.entrypoint!r} that fits {fits}; set style"
        )
    return fitting[0]


def _check_given(shape: Shape, signature: inspect.Signature, spec: PluginSpec, taken: Sequence[str]) -> None:
    """Refuses options that would replace the completion, and required parameters that nothing fills."""
    parameters = {p.name: p for p in signature.parameters.values()}
    if not PARAMETERS[shape] <= parameters.keys():
        return
    for name in sorted(PARAMETERS[shape].intersection(taken)):
        raise ConfigError(
            f"{_subject(spec)} must not have an option {name}, got one: it is what is scored; leave it out"
        )
    known = GIVEN.get(shape)
    if known is None:
        return
    lacking = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in {*known, *taken}
    ]
    if lacking:
        raise ConfigError(
            f"{_subject(spec)} must have parameters that something is given for, got {', '.join(lacking)} beside "
            f"what {STYLE_NAMES[STYLE_OF[shape]]} is given, {', '.join(known)}; set options, or a default"
        )


def _fits(shape: Shape, signature: inspect.Signature, taken: Sequence[str], *, is_stated: bool) -> bool:
    """True if a call of the shape binds to a signature and, without a stated style, has its parameters."""
    named = {
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)
    }
    if not is_stated and not PARAMETERS[shape] <= named:
        return False
    keywords: dict[str, Any] = dict.fromkeys(taken)
    arguments: tuple[Any, ...] = ()
    match shape:
        case "request" | "requests":
            if is_stated and shape == "requests" and "requests" not in named:
                return False
            arguments = (None,)
        case "texts":
            keywords |= dict.fromkeys(PARAMETERS[shape])
        case "trl":
            keywords |= _of_names(signature, dict.fromkeys(GIVEN["trl"]))
        case "verl":
            keywords |= _of_names(signature, dict.fromkeys(GIVEN["verl"]))
    try:
        signature.bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def _unbound(call: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    try:
        inspect.signature(call).bind(**arguments)
    except TypeError as error:
        return str(error)
    except ValueError:
        return None  # a built-in that does not tell its signature
    return None


def _of_names(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments that a signature accepts; all of them if it has `**kwargs`."""
    parameters = signature.parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return arguments
    return {name: value for name, value in arguments.items() if name in signature.parameters}


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _subject(spec: PluginSpec) -> str:
    return f"reward.rewards {spec.name}: {spec.entrypoint!r}"


def _place_of(error: BaseException) -> str:
    """Place in the user's module where an import failed; empty if the module was not reached."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    # frames of the importing modules come before the user's
    files = [frame.filename for frame in frames if frame.name == "<module>"]
    user_frames = [frame for frame in frames if frame.filename in files[:1]]
    return f" at {user_frames[-1].filename}:{user_frames[-1].lineno}" if user_frames else ""
