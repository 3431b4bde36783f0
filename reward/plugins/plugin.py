"""Rewards of the user's: named, loaded, and called in the style that their parameters tell.

| style | shape | is called |
|---|---|---|
| omni | request | `f(request)` for each completion, a `RewardRequest` |
| omni | requests | `f(requests)` for a whole group |
| omni | texts | `f(completion=..., label=...)` for each completion |
| trl | trl | `f(prompts=..., completions=..., **columns)` for a whole group, as TRL's trainers do |
| verl | verl | `compute_score(data_source=..., solution_str=..., ground_truth=..., extra_info=...)` for each |

A class is made once with its options and called as an object, or by its method `score`; a function is given its
options by name. Nothing here imports more than the standard library: it runs in the processes of rewards.
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
WHOSE: Mapping[Style, str] = {"omni": "an omni reward", "trl": "a trl reward", "verl": "a verl reward"}
TELLING: Mapping[Shape, frozenset[str]] = {
    "request": frozenset({"request"}),
    "requests": frozenset({"requests"}),
    "texts": frozenset({"completion", "label"}),
    "trl": frozenset({"completions"}),
    "verl": frozenset({"solution_str", "ground_truth"}),
}
"""Parameters that tell a shape."""
SHAPES: tuple[Shape, ...] = ("request", "requests", "texts", "trl", "verl")
CALL_METHOD = "score"
"""Method of a class whose objects are not callable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginSpec:
    """The code to load; it crosses processes."""

    name: str
    """Name of the reward."""
    entrypoint: str
    style: Style = "auto"
    is_conversational: bool = True
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, entry: "UserCodeConfig") -> "PluginSpec":
        """The one that a configuration names."""
        return cls(
            name=entry.name,
            entrypoint=entry.entrypoint,
            style=entry.style,
            is_conversational=entry.conversational,
            options=entry.options,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugin:
    """A reward that is loaded."""

    call: Callable[..., Any]
    shape: Shape
    spec: PluginSpec
    is_async: bool
    taken: frozenset[str] = frozenset()
    """Parameters that the options of a function fill: they take precedence over columns of the same name."""

    @property
    def takes_groups(self) -> bool:
        """True if one call is for a whole group."""
        return self.shape in ("requests", "trl")

    @property
    def decision(self) -> str:
        """The calling convention and its reason, for people."""
        why = f"as it takes {' and '.join(sorted(TELLING[self.shape]))}"
        if self.spec.style != "auto":
            why = f"as style={self.spec.style} says"
        each = "a group at a time" if self.takes_groups else "a completion at a time"
        kind = "async, " if self.is_async else ""
        return (
            f"reward {self.spec.name}: {self.spec.entrypoint} is called in {STYLE_OF[self.shape]} style, "
            f"{kind}{each}, {why}"
        )

    def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """Asks code that is not async; one request, or a group. Whatever it raises is a fault."""
        try:
            return self._outcomes(self._called(requests), requests)
        except BaseException as error:  # noqa: BLE001 - the user's code, sys.exit included
            return [fault_of(error)] * len(requests)

    async def ask_async(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """The same of async code."""
        try:
            return self._outcomes(await self._called(requests), requests)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it was given up
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

    def _accepted(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        left = {name: value for name, value in given.items() if name not in self.taken}
        return _of_names(inspect.signature(self.call), left)

    def _outcomes(self, answer: object, requests: Sequence[RewardRequest]) -> list[Outcome]:
        return checked_all(answer, count=len(requests)) if self.takes_groups else [checked(answer)]


def trl_columns(requests: Sequence[RewardRequest], *, is_conversational: bool) -> dict[str, list[Any]]:
    """The arguments of TRL's trainers, one entry per completion; `solution` is R1-Omni's column."""
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
"""Parameters that something is given for, where it is given by name."""


def load_plugin(spec: PluginSpec) -> Plugin:
    """Imports it, makes it where it is a class, and decides how it is called.

    Raises:
        ConfigError: it cannot be imported or made, or its parameters tell no style, or several.
    """
    found = _found(spec)
    if inspect.isclass(found):
        made = _made(found, spec)
        call = made if callable(made) else getattr(made, CALL_METHOD)
        shape = _shape(call, spec, taken=())
    else:
        shape = _shape(found, spec, taken=tuple(spec.options))
        call = functools.partial(found, **spec.options) if spec.options else found
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    taken = frozenset[str]() if inspect.isclass(found) else frozenset(spec.options)
    return Plugin(call=call, shape=shape, spec=spec, is_async=is_async, taken=taken)


def check_plugin(spec: PluginSpec) -> None:
    """The same short of making a class, which may take a model and a GPU.

    Raises:
        ConfigError: as `load_plugin` does.
    """
    found = _found(spec)
    if not inspect.isclass(found):
        _shape(found, spec, taken=tuple(spec.options))
        return
    reason = _unbound(found, dict(spec.options))
    if reason is not None:
        raise ConfigError(f"{_subject(spec)} must take its options, got {reason}; mend options or the class")
    method = getattr(found, "__call__" if _is_callable(found) else CALL_METHOD)
    _shape(functools.partial(method, None), spec, taken=())


def _found(spec: PluginSpec) -> Callable[..., Any]:
    module, _, name = spec.entrypoint.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            remedy = "the module must lie in the directory that the run was started from, or be installed"
        else:
            remedy = "mend the module"
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got {spec.entrypoint!r}: {said}{_place_of(error)}; "
            f"{remedy}"
        ) from error
    is_usable = _is_callable(found) or hasattr(found, CALL_METHOD) if inspect.isclass(found) else callable(found)
    if not is_usable:
        what = "nothing of this name" if found is None else f"of type {type(found).__name__}"
        if inspect.isclass(found):
            what = f"a class without __call__ and {CALL_METHOD}"
        raise ConfigError(
            f"reward.rewards entrypoint must name a function or a class, got {spec.entrypoint!r}, {what}; mend the "
            f"name, or define `def {name}(completion, label)` in the module"
        )
    return cast(Callable[..., Any], found)


def _is_callable(found: type) -> bool:
    """True if a class's objects can be called."""
    return any("__call__" in base.__dict__ for base in found.__mro__)


def _made(found: Callable[..., Any], spec: PluginSpec) -> Any:
    try:
        return found(**spec.options)
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"{_subject(spec)} must be made with its options, got {said}{_place_of(error)}; mend options or class"
        ) from error


def _shape(call: Callable[..., Any], spec: PluginSpec, *, taken: Sequence[str]) -> Shape:
    """Determines the calling convention of a callable.

    Args:
        call: what is called.
        spec: with the style that was asked for.
        taken: parameters that options are given for.
    """
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{_subject(spec)} must tell its parameters, got {error}; wrap it in a function"
        ) from error
    is_told = spec.style != "auto"
    asked: list[Shape] = [shape for shape in SHAPES if not is_told or STYLE_OF[shape] == spec.style]
    fitting: list[Shape] = [shape for shape in asked if _fits(shape, signature, taken, is_told=is_told)]
    if is_told:
        fitting = fitting[:1]
    _, _, name = spec.entrypoint.partition(":")
    for shape in fitting or asked:
        _check_given(shape, signature, spec, taken)
    if not fitting:
        whose = f"{WHOSE[spec.style]}'s" if is_told else "an omni, trl or verl reward's"
        raise ConfigError(
            f"reward.rewards entrypoint must have {whose} parameters, got {spec.entrypoint!r} with {signature}; "
            f"define it as `def {name}(completion, label)`, or set style"
        )
    if len(fitting) > 1:
        told = " and ".join(f"{STYLE_OF[s]} ({', '.join(sorted(TELLING[s]))})" for s in fitting)
        raise ConfigError(
            f"reward.rewards entrypoint must be of one style, got {spec.entrypoint!r} that fits {told}; set style"
        )
    return fitting[0]


def _check_given(shape: Shape, signature: inspect.Signature, spec: PluginSpec, taken: Sequence[str]) -> None:
    """Refuses options in the place of a completion, and parameters that nothing is given for."""
    parameters = {p.name: p for p in signature.parameters.values()}
    if not TELLING[shape] <= parameters.keys():
        return
    for name in sorted(TELLING[shape].intersection(taken)):
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
            f"what {WHOSE[STYLE_OF[shape]]} is given, {', '.join(known)}; set options, or a default"
        )


def _fits(shape: Shape, signature: inspect.Signature, taken: Sequence[str], *, is_told: bool) -> bool:
    """True if a signature has the parameters of a shape and accepts its call; a stated style needs the call."""
    named = {
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY, p.POSITIONAL_ONLY)
    }
    if not is_told and not TELLING[shape] <= named:
        return False
    given: dict[str, Any] = dict.fromkeys(taken)
    arguments: tuple[Any, ...] = ()
    match shape:
        case "request" | "requests":
            if is_told and shape == "requests" and "requests" not in named:
                return False
            arguments = (None,)
        case "texts":
            given |= dict.fromkeys(TELLING[shape])
        case "trl":
            given |= _of_names(signature, dict.fromkeys(GIVEN["trl"]))
        case "verl":
            given |= _of_names(signature, dict.fromkeys(GIVEN["verl"]))
    try:
        signature.bind(*arguments, **given)
    except TypeError:
        return False
    return True


def _unbound(call: Callable[..., Any], given: Mapping[str, Any]) -> str | None:
    """The reason why a call fails to bind; None if it binds."""
    try:
        inspect.signature(call).bind(**given)
    except TypeError as error:
        return str(error)
    except ValueError:
        return None  # a built-in that does not tell its signature
    return None


def _of_names(signature: inspect.Signature, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments that a signature accepts; all of them if it has `**kwargs`."""
    parameters = signature.parameters.values()
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return given
    return {name: value for name, value in given.items() if name in signature.parameters}


def _message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def _subject(spec: PluginSpec) -> str:
    return f"reward.rewards {spec.name}: {spec.entrypoint!r}"


def _place_of(error: BaseException) -> str:
    """Place in the user's module where an import failed; empty if the module was not reached."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    # what imports a module stands before its own top level
    files = [frame.filename for frame in frames if frame.name == "<module>"]
    own = [frame for frame in frames if frame.filename in files[:1]]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
