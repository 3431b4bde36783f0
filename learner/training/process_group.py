"""The learner's process group: this process's rank, and sums over all ranks."""

import os
from typing import Any

import torch
from torch import Tensor


class ProcessGroup:
    """Joins on construction, by `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`."""

    def __init__(self) -> None:
        import deepspeed

        self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # an unused kernel, which DeepSpeed would compile for a minute on first use
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if self.device.type == "cuda" else "gloo")
        self._group = torch.distributed.group.WORLD

    def all_reduce(self, tensor: Tensor, op: Any = torch.distributed.ReduceOp.SUM) -> None:
        """Reduces a tensor of any device, in place."""
        moved = tensor.to(self.device)
        torch.distributed.all_reduce(moved, op=op, group=self._group)
        tensor.copy_(moved)

    def close(self) -> None:
        torch.distributed.destroy_process_group()
