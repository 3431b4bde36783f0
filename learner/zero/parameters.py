"""Parameters and their state under DeepSpeed: the only module with DeepSpeed's private names.

Under ZeRO-3 a parameter holds a share (`ds_tensor`) of its tensor. Under stages 1 and 2 it is whole, and the
float32 copy that the optimizer steps is a slice of a flat partition (`_hp_mapping`).
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def gathered(parameters: Sequence[nn.Parameter], *, modify: bool = False) -> Generator[None]:
    """Makes partitioned parameters whole on every rank; `modify` keeps rank 0's changes."""
    if not any(hasattr(p, "ds_id") for p in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if modify else None):
        yield


def storage_of(parameter: nn.Parameter) -> Tensor:
    """The memory of this rank's share: the partition under ZeRO-3, else the whole."""
    share: Tensor = getattr(parameter, "ds_tensor", parameter)
    return share.data


def overwrite(parameter: nn.Parameter, share: Tensor) -> None:
    """Restores a copy of `storage_of`, on every rank."""
    storage_of(parameter).copy_(share)
    partitioned = cast(Any, parameter)
    if hasattr(parameter, "ds_tensor") and parameter.data.numel() == partitioned.ds_numel:
        # DeepSpeed keeps small parameters gathered after use: that copy is stale now
        partitioned.partition(has_been_updated=False)


def full_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def full_bytes(parameter: nn.Parameter) -> int:
    return getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """True if its optimizer state is in flat partitions: at stages 1 to 3, for trained parameters."""
    return hasattr(parameter, "_hp_mapping") or (hasattr(parameter, "ds_id") and parameter.requires_grad)


def read_stepped(optimizer: Any, parameter: nn.Parameter, kind: str | None) -> Tensor:
    """A whole float32 state of a parameter, or for None the values that the optimizer steps; a collective."""
    if not _is_partitioned(parameter):
        return _stepped_tensor(optimizer, parameter, kind).detach().float()
    import deepspeed

    whole: Any = deepspeed.utils
    mapping = getattr(parameter, "_hp_mapping", None)
    if kind is not None and mapping is not None and kind not in (mapping.optim_fragment or {}):
        # DeepSpeed links all groups' states after the first group's step, when the others have none yet
        link_states(optimizer)
    value = (
        whole.safe_get_full_fp32_param(parameter)
        if kind is None
        else whole.safe_get_full_optimizer_state(parameter, kind)
    )
    return cast(Tensor, value).detach().float().reshape(full_shape(parameter))


def write_stepped(optimizer: Any, parameter: nn.Parameter, value: Tensor, kind: str | None) -> None:
    """Restores a value that `read_stepped` returned, on every rank."""
    if not _is_partitioned(parameter):
        _stepped_tensor(optimizer, parameter, kind).data.copy_(value)
        return
    import deepspeed

    whole: Any = deepspeed.utils
    value = value.to(parameter.device)
    if kind is None:
        whole.safe_set_full_fp32_param(parameter, value)
    else:
        whole.safe_set_full_optimizer_state(parameter, value, kind)


def write_parameter(optimizer: Any, parameter: nn.Parameter, value: Tensor) -> None:
    """Changes a parameter, and the copy of it that the optimizer steps; a collective."""
    with torch.no_grad(), gathered([parameter], modify=True):
        parameter.copy_(value)
    write_stepped(optimizer, parameter, value.float(), None)


def _stepped_tensor(optimizer: Any, parameter: nn.Parameter, kind: str | None) -> Tensor:
    """The tensor that is stepped for an unpartitioned parameter, itself or its float32 copy; or its state."""
    stepped = next((copy for low, copy in _copies(optimizer) if low is parameter), parameter)
    return stepped if kind is None else torch_optimizer(optimizer).state[stepped][kind]


def _copies(optimizer: Any) -> list[tuple[nn.Parameter, Tensor]]:
    """Each parameter with the float32 copy that is stepped, at stage 0 in bfloat16; none elsewhere."""
    groups = zip(*(getattr(optimizer, name, ()) for name in ("fp16_groups", "fp32_groups")), strict=False)
    return [pair for low, high in groups for pair in zip(low, high, strict=True)]


def torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)


def stepped_tensors(optimizer: Any) -> Iterator[Tensor]:
    """The tensors that the optimizer steps: this rank's flat partitions of every group, or the parameters."""
    flat: Sequence[Tensor] | None = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    if flat is not None:
        yield from flat
        return
    for group in torch_optimizer(optimizer).param_groups:
        yield from group["params"]


def link_states(optimizer: Any) -> None:
    """Makes the optimizer's state readable by parameter; not a collective."""
    link = getattr(optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link is not None:
        optimizer._hp_optimizer_states_linked = False
        link()


def forget_first_step(optimizer: Any) -> None:
    """Undoes the step with zero gradients by which DeepSpeed allocates states at stage 0 in bfloat16.

    It would count in AdamW's bias correction, and decay the float32 copies once.
    """
    for parameter, copy in _copies(optimizer):
        torch_optimizer(optimizer).state.clear()
        copy.data.copy_(parameter.data)
