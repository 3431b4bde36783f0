"""AdamW's moments by parameter name, as whole tensors, for checkpoints. Every function is a collective."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from learner.zero.parameters import (
    full_shape,
    is_partitioned,
    link_states,
    read_partitioned,
    stepped_copy,
    stepped_tensors,
    torch_optimizer,
    write_partitioned,
)

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""The float32 copy that the optimizer steps when parameters are bfloat16."""


def read_state(engine: Any, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Whole float32 tensors of a parameter's state, on its device; zeros before the first step.

    The next step may change them.
    """
    master = _master(engine, name, parameter)
    if not torch_optimizer(engine.optimizer).state:
        return {
            f"{name}.{kind}": torch.zeros(full_shape(parameter), device=parameter.device) for kind in MOMENTS
        } | master
    if not is_partitioned(parameter):
        state = torch_optimizer(engine.optimizer).state[stepped_copy(engine.optimizer, parameter)]
        return {f"{name}.{kind}": state[kind].detach().float() for kind in MOMENTS} | master
    return {f"{name}.{kind}": read_partitioned(engine.optimizer, parameter, kind) for kind in MOMENTS} | master


def write_state(
    engine: Any, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], *, num_updates: int
) -> None:
    """Restores states of `read_state` into a new engine, whose bias correction counts `num_updates`."""
    if num_updates == 0:
        return
    state = cast(dict[Any, Any], torch_optimizer(engine.optimizer).state)
    for flat in stepped_tensors(engine.optimizer):
        state[flat] = {
            "step": torch.tensor(float(num_updates)),
            **{kind: torch.zeros_like(flat) for kind in MOMENTS},
        }
    link_states(engine.optimizer)
    for name, parameter in parameters.items():
        moments = {kind: values[f"{name}.{kind}"] for kind in MOMENTS}
        master = values.get(f"{name}.{MASTER}")
        if is_partitioned(parameter):
            for kind, value in moments.items():
                write_partitioned(parameter, value, kind)
            if master is not None:
                write_partitioned(parameter, master, None)
            continue
        stepped = stepped_copy(engine.optimizer, parameter)
        for kind, value in moments.items():
            state[stepped][kind].copy_(value)
        if master is not None:
            stepped.data.copy_(master)


def _master(engine: Any, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    if parameter.dtype == torch.float32:
        return {}
    if is_partitioned(parameter):
        return {f"{name}.{MASTER}": read_partitioned(engine.optimizer, parameter, None)}
    return {f"{name}.{MASTER}": stepped_copy(engine.optimizer, parameter).detach().float()}
