"""AdamW's moments by parameter name, whole, whatever DeepSpeed partitioned: for checkpoints.

Every function is a collective of all ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""The float32 copy that is stepped where the parameters themselves are bfloat16."""


def state_names(name: str, *, has_master: bool) -> tuple[str, ...]:
    """What a checkpoint holds of one parameter."""
    return tuple(f"{name}.{kind}" for kind in (*MOMENTS, *([MASTER] if has_master else [])))


def read_state(engine: Any, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Full float32 copies on the CPU of one parameter's state; zeros before the first step."""
    import deepspeed

    whole: Any = deepspeed.utils
    if not _is_stepped(engine):
        return {f"{name}.{kind}": torch.zeros(_shape(parameter)) for kind in MOMENTS} | _master(
            engine, name, parameter
        )
    if not _is_partitioned(parameter):
        state = engine.optimizer.state[parameter]
        return {f"{name}.{kind}": state[kind].detach().float().cpu().clone() for kind in MOMENTS}
    found = {kind: whole.safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS}
    if parameter.dtype != torch.float32:
        found[MASTER] = whole.safe_get_full_fp32_param(parameter)
    return {
        f"{name}.{kind}": value.detach().float().cpu().reshape(_shape(parameter)) for kind, value in found.items()
    }


def write_state(
    engine: Any, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], *, num_updates: int
) -> None:
    """Puts back what `read_state` gave, and the number of steps that AdamW's bias correction counts.

    Args:
        engine: DeepSpeed's, fresh.
        parameters: the trainable ones, by name.
        values: by `state_names`.
        num_updates: optimizer steps taken so far.
    """
    import deepspeed

    whole: Any = deepspeed.utils
    if num_updates == 0:
        return
    for flat in _stepped_tensors(engine):
        state = cast(dict[Any, Any], _torch_optimizer(engine).state)
        state[flat] = {
            "step": torch.tensor(float(num_updates)),
            **{kind: torch.zeros_like(flat) for kind in MOMENTS},
        }
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in parameters.items():
        for kind in MOMENTS:
            value = values[f"{name}.{kind}"].to(parameter.device)
            if _is_partitioned(parameter):
                whole.safe_set_full_optimizer_state(parameter, value, kind)
            else:
                engine.optimizer.state[parameter][kind].copy_(value)
        if f"{name}.{MASTER}" in values:
            whole.safe_set_full_fp32_param(parameter, values[f"{name}.{MASTER}"].to(parameter.device))


def _master(engine: Any, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    import deepspeed

    if parameter.dtype == torch.float32 or not _is_partitioned(parameter):
        return {}
    master = cast(Any, deepspeed.utils).safe_get_full_fp32_param(parameter)
    return {f"{name}.{MASTER}": master.detach().float().cpu().reshape(_shape(parameter))}


def _torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer inside DeepSpeed's, or itself."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _stepped_tensors(engine: Any) -> Iterator[Tensor]:
    """What the optimizer steps: this rank's flat partitions, or the parameters."""
    flat: Sequence[Tensor] | None = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    if flat is not None:
        yield from flat
        return
    for group in _torch_optimizer(engine).param_groups:
        yield from group["params"]


def _is_stepped(engine: Any) -> bool:
    return bool(_torch_optimizer(engine).state)


def _is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)
