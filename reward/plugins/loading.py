"""Loading of user rewards: import, construction, and detection of the calling convention."""

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Collection
from typing import Any

from common.errors import ConfigError
from reward.plugins.plugin import CONVENTIONS, Plugin, PluginSpec, Shape, accepted_by

CALL_METHOD = "score"
"""Method of a class whose objects are not callable."""


def load_plugin(spec: PluginSpec) -> Plugin:
    """Imports a reward, constructs it if it is a class, and decides its calling convention.

    Raises:
        ConfigError: import or construction failed, or the parameters fit no style or several.
    """
    call, taken = _imported(spec), frozenset(spec.options)
    if inspect.isclass(call):
        instance, taken = _constructed(call, spec), frozenset[str]()
        call = instance if callable(instance) else getattr(instance, CALL_METHOD)
    shape = _shape(call, spec, taken=taken)
    if taken:
        call = functools.partial(call, **spec.options)
    is_async = inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    return Plugin(call=call, shape=shape, spec=spec, is_async=is_async, taken=taken)


def check_plugin(spec: PluginSpec) -> None:
    """`load_plugin` without constructing a class, which may need a model and a GPU.

    Raises:
        ConfigError: as in `load_plugin`.
    """
    target = _imported(spec)
    if not inspect.isclass(target):
        _shape(target, spec, taken=spec.options)
        return
    try:
        inspect.signature(target).bind(**spec.options)
    except TypeError as error:
        raise ConfigError(
            f"{_subject(spec)} must take its options, got {error}; correct the options or the class"
        ) from error
    except ValueError:
        pass  # a class written in C may have no signature
    method = getattr(target, "__call__" if _is_callable(target) else CALL_METHOD)
    _shape(functools.partial(method, None), spec, taken=())


def _imported(spec: PluginSpec) -> Callable[..., Any]:
    module, _, name = spec.entrypoint.partition(":")
    try:
        target = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        remedy = "correct the module"
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            remedy = "the module must lie in the directory that the run was started from, or be installed"
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got {spec.entrypoint!r}: {_reason(error)}; {remedy}"
        ) from error
    if target is None:
        problem = "nothing of this name"
    elif not callable(target):
        problem = f"of type {type(target).__name__}"
    elif inspect.isclass(target) and not (_is_callable(target) or hasattr(target, CALL_METHOD)):
        problem = f"a class without __call__ and {CALL_METHOD}"
    else:
        return target
    raise ConfigError(
        f"reward.rewards entrypoint must name a function or a class, got {spec.entrypoint!r}, {problem}; "
        f"correct the name, or define `def {name}(completion, label)` in the module"
    )


def _is_callable(kind: type) -> bool:
    # every class object has `__call__` of its metaclass
    return any("__call__" in base.__dict__ for base in kind.__mro__)


def _constructed(target: Callable[..., Any], spec: PluginSpec) -> Any:
    try:
        return target(**spec.options)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{_subject(spec)} must be made with its options, got {_reason(error)}; "
            "correct the options or the class"
        ) from error


def _shape(call: Callable[..., Any], spec: PluginSpec, *, taken: Collection[str]) -> Shape:
    """Determines the calling convention of a callable; `taken` are the parameters that options fill."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{_subject(spec)} must show its parameters, got {error}; wrap it in a function"
        ) from error
    is_stated = spec.style != "auto"
    candidates: list[Shape] = [shape for shape, c in CONVENTIONS.items() if spec.style in ("auto", c.style)]
    fitting: list[Shape] = [shape for shape in candidates if _fits(shape, signature, taken, is_stated=is_stated)]
    if is_stated:
        fitting = fitting[:1]
    for shape in fitting or candidates:
        _check_passed(shape, signature, spec, taken)
    if not fitting:
        styles = spec.style if is_stated else "omni, trl or verl"
        name = spec.entrypoint.partition(":")[2]
        raise ConfigError(
            f"reward.rewards entrypoint must have the parameters of {styles} style, got {spec.entrypoint!r} with "
            f"{signature}; define it as `def {name}(completion, label)`, or set style"
        )
    if len(fitting) > 1:
        fits = " and ".join(f"{CONVENTIONS[s].style} ({', '.join(sorted(CONVENTIONS[s].keys))})" for s in fitting)
        raise ConfigError(
            f"reward.rewards entrypoint must be of one style, got {spec.entrypoint!r} that fits {fits}; set style"
        )
    return fitting[0]


def _check_passed(shape: Shape, signature: inspect.Signature, spec: PluginSpec, taken: Collection[str]) -> None:
    """Refuses options that would replace the completion, and required parameters that nothing fills."""
    convention, parameters = CONVENTIONS[shape], signature.parameters
    if not convention.keys <= parameters.keys():
        return
    for name in sorted(convention.keys.intersection(taken)):
        raise ConfigError(
            f"{_subject(spec)} must not have an option {name}, got one, which would replace what is scored; "
            "leave it out"
        )
    filled = {*convention.passed, *taken}
    lacking = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name not in filled
    ]
    if lacking:
        raise ConfigError(
            f"{_subject(spec)} must require only parameters that {convention.style} style passes "
            f"({', '.join(convention.passed)}), got {', '.join(lacking)}; set options, or a default"
        )


def _fits(shape: Shape, signature: inspect.Signature, taken: Collection[str], *, is_stated: bool) -> bool:
    """True if a call of the shape binds to a signature and, without a stated style, has its parameters."""
    convention = CONVENTIONS[shape]
    named = {p.name for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    # with a stated style a single parameter of any name is a request; a group needs the name
    if not convention.keys <= named and (not is_stated or shape == "requests"):
        return False
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = dict.fromkeys(taken)
    match shape:
        case "request" | "requests":
            arguments = (None,)
        case "texts":
            keywords |= dict.fromkeys(convention.passed)
        case "trl" | "verl":
            keywords |= accepted_by(signature, dict.fromkeys(convention.passed))
    try:
        signature.bind(*arguments, **keywords)
    except TypeError:
        return False
    return True


def _subject(spec: PluginSpec) -> str:
    return f"reward.rewards {spec.name}: {spec.entrypoint!r}"


def _reason(error: BaseException) -> str:
    """The error, and its place in the user's module if the module was reached."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{reason} at {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    # frames of the importing modules come before the user's
    files = [frame.filename for frame in frames if frame.name == "<module>"]
    user_frames = [frame for frame in frames if frame.filename in files[:1]]
    return f"{reason} at {user_frames[-1].filename}:{user_frames[-1].lineno}" if user_frames else reason
