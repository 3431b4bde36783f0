"""What DeepSpeed does to parameters and their state: the one module that knows its private names.

Under ZeRO-3 a parameter is a share (`ds_tensor`) of what it was; under stages 1 and 2 it is whole, and the float32
copy that the optimizer steps is a slice of a flat partition (`_hp_mapping`). Elsewhere a parameter is a parameter.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, modify: bool = False) -> Generator[None]:
    """Makes partitioned parameters whole on every rank; with `modify`, rank 0's changes are kept."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if modify else None):
        yield


def storage_of(parameter: nn.Parameter) -> Tensor:
    """The memory that holds this rank's share: the partition under ZeRO-3, else the whole."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share.data


def overwrite(parameter: nn.Parameter, share: Tensor) -> None:
    """Puts a copy of `storage_of` back, on every rank."""
    storage_of(parameter).copy_(share)
    partitioned = cast(Any, parameter)
    if hasattr(parameter, "ds_tensor") and parameter.data.numel() == partitioned.ds_numel:
        # DeepSpeed keeps small parameters gathered after use: that copy is old now
        partitioned.partition(has_been_updated=False)


def full_shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole tensor, partitioned or not."""
    return getattr(parameter, "ds_shape", parameter.shape)


def full_bytes(parameter: nn.Parameter) -> int:
    """Bytes of the whole tensor, partitioned or not."""
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether its optimizer state lies in flat partitions: at stages 1 to 3, for what trains."""
    return hasattr(parameter, "_hp_mapping") or (hasattr(parameter, "ds_id") and parameter.requires_grad)


def read_partitioned(optimizer: Any, parameter: nn.Parameter, kind: str | None) -> Tensor:
    """A whole float32 state of a partitioned parameter, or with None its float32 copy; a collective."""
    import deepspeed

    whole: Any = deepspeed.utils
    mapping = getattr(parameter, "_hp_mapping", None)
    if kind is not None and mapping is not None and kind not in (mapping.optim_fragment or {}):
        # DeepSpeed links all groups' states when the first group has stepped and the others have none yet
        link_states(optimizer)
    found = (
        whole.safe_get_full_fp32_param(parameter)
        if kind is None
        else whole.safe_get_full_optimizer_state(parameter, kind)
    )
    return cast(Tensor, found).detach().float().reshape(full_shape(parameter))


def write_partitioned(parameter: nn.Parameter, value: Tensor, kind: str | None) -> None:
    """Puts back what `read_partitioned` gave, on every rank."""
    import deepspeed

    whole: Any = deepspeed.utils
    value = value.to(parameter.device)
    if kind is None:
        whole.safe_set_full_fp32_param(parameter, value)
    else:
        whole.safe_set_full_optimizer_state(parameter, value, kind)


def write_parameter(optimizer: Any, parameter: nn.Parameter, value: Tensor) -> None:
    """Gives a parameter, and the copy of it that the optimizer steps, another value; a collective."""
    with torch.no_grad(), gathered([parameter], modify=True):
        parameter.copy_(value)
    if is_partitioned(parameter):
        write_partitioned(parameter, value.float(), None)
    else:
        stepped_copy(optimizer, parameter).data.copy_(value)


def stepped_copy(optimizer: Any, parameter: nn.Parameter) -> Tensor:
    """What is stepped for a parameter that is not partitioned: itself, or at stage 0 in bfloat16 a float32 copy."""
    return next((copy for mine, copy in _copies(optimizer) if mine is parameter), parameter)


def _copies(optimizer: Any) -> list[tuple[nn.Parameter, Tensor]]:
    """At stage 0 in bfloat16 each parameter with the float32 copy that is stepped; none elsewhere."""
    # the copies are in groups as the parameters are
    groups = zip(*(getattr(optimizer, name, ()) for name in ("fp16_groups", "fp32_groups")), strict=False)
    return [pair for low, high in groups for pair in zip(low, high, strict=True)]


def torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside DeepSpeed's, or itself."""
    return getattr(optimizer, "optimizer", optimizer)


def stepped_tensors(optimizer: Any) -> Iterator[Tensor]:
    """What the optimizer steps: this rank's flat partitions, of every group, or the parameters."""
    flat: Sequence[Tensor] | None = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    if flat is not None:
        yield from flat
        return
    for group in torch_optimizer(optimizer).param_groups:
        yield from group["params"]


def link_states(optimizer: Any) -> None:
    """Makes what is in the optimizer's state readable by parameter; not a collective."""
    link = getattr(optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        optimizer._hp_optimizer_states_linked = False
        link()


def forget_first_step(optimizer: Any) -> None:
    """Takes back the step with zero gradients by which DeepSpeed allocates states at stage 0 in bfloat16.

    It would count in AdamW's bias correction, and decay the float32 copies once.
    """
    for mine, copy in _copies(optimizer):
        torch_optimizer(optimizer).state.clear()
        copy.data.copy_(mine.data)
