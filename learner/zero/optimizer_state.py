"""AdamW's moments by parameter name, as whole tensors, for checkpoints. Every function is a collective."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from learner.zero.parameters import (
    full_shape,
    link_states,
    read_stepped,
    stepped_tensors,
    torch_optimizer,
    write_stepped,
)

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""The float32 copy that the optimizer steps when parameters are bfloat16."""


def read_state(engine: Any, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Whole float32 tensors on the parameter's device, which the next step may change; zeros before the first."""
    state: dict[str, Tensor] = {}
    for kind in MOMENTS:
        if torch_optimizer(engine.optimizer).state:
            state[f"{name}.{kind}"] = read_stepped(engine.optimizer, parameter, kind)
        else:
            state[f"{name}.{kind}"] = torch.zeros(full_shape(parameter), device=parameter.device)
    if parameter.dtype != torch.float32:
        state[f"{name}.{MASTER}"] = read_stepped(engine.optimizer, parameter, None)
    return state


def write_state(
    engine: Any, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], *, num_updates: int
) -> None:
    """Restores states of `read_state` into a new engine, whose bias correction counts `num_updates`."""
    if num_updates == 0:
        return
    state = cast(dict[Any, Any], torch_optimizer(engine.optimizer).state)
    for flat in stepped_tensors(engine.optimizer):
        zeros = {kind: torch.zeros_like(flat) for kind in MOMENTS}
        state[flat] = {"step": torch.tensor(float(num_updates)), **zeros}
    link_states(engine.optimizer)
    for name, parameter in parameters.items():
        for kind in MOMENTS:
            write_stepped(engine.optimizer, parameter, values[f"{name}.{kind}"], kind)
        if f"{name}.{MASTER}" in values:
            write_stepped(engine.optimizer, parameter, values[f"{name}.{MASTER}"], None)
