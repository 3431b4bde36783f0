"""DeepSpeed as the learner uses it, with types: its configuration, and an engine of few methods."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.config.learner import LearnerConfig
from common.models.tokens import TokenBatch
from learner.zero.parameters import forget_first_step

CPU_BUCKET = 2_000_000
"""Numbers per reduction on the CPU: the C library returns larger buffers to the system, and every pass would pay
for fresh pages. GPUs keep DeepSpeed's 500 millions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepped:
    grad_norm: float
    """Over all ranks, before clipping; infinite or NaN if the step was not taken."""
    is_taken: bool
    """True if the optimizer stepped; the same on all ranks."""


class DeepSpeedEngine:
    """The policy and its optimizer. Every method is a collective but `set_learning_rate` and `evaluating`."""

    def __init__(self, policy: nn.Module, config: LearnerConfig, *, dtype: str) -> None:
        import deepspeed

        trained = decay_groups(policy, weight_decay=config.optimizer.weight_decay)
        # its annotations name the wrong type for `model_parameters`
        initialize = cast(Any, deepspeed.initialize)
        settings = deepspeed_config(config, dtype=dtype)
        self._engine: Any = initialize(model=policy, model_parameters=trained, config=settings)[0]
        self.module: nn.Module = self._engine.module
        self.optimizer: Any = self._engine.optimizer
        forget_first_step(self.optimizer)
        self._world_size = int(self._engine.world_size)
        self._is_plain = config.zero_stage == 0 and dtype == "float32"

    def __call__(self, tokens: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies, both float32 [N, C]."""
        return self._engine(tokens, temperature=temperature)

    def begin_pass(self, *, is_last: bool) -> None:
        """Called before each training forward; gradients are reduced over ranks in the last pass of an update."""
        self._engine.train()
        self._engine.set_gradient_accumulation_boundary(is_last)

    def backward(self, loss: Tensor) -> None:
        """Accumulates a pass's gradients; `loss` is the pass's sum over the denominators of the whole batch."""
        # takes back DeepSpeed's average over ranks, and its division by accumulation steps
        self._engine.backward(loss * self._world_size, scale_wrt_gas=False)

    def step(self) -> Stepped:
        """Clips, steps the optimizer and drops the gradients; if their norm is not finite, only drops them."""
        if self._is_plain:
            # the only one of DeepSpeed's optimizers that steps without a check of the norm
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            is_taken = math.isfinite(grad_norm)
            (self._engine.step if is_taken else self._engine.zero_grad)()
        else:
            self._engine.step()
            grad_norm, is_taken = float(self._engine.get_global_grad_norm()), self._engine.was_step_applied()
        return Stepped(grad_norm=grad_norm, is_taken=bool(is_taken))

    def set_learning_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @contextmanager
    def evaluating(self) -> Generator[None]:
        was_training = self._engine.training
        self._engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._engine.train(was_training)


def decay_groups(policy: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer's parameter groups; tensors of one axis, such as biases and norms, do not decay."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def deepspeed_config(config: LearnerConfig, *, dtype: str) -> dict[str, Any]:
    settings = config.optimizer
    to_host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": config.zero_stage,
            **({} if torch.cuda.is_available() else {"reduce_bucket_size": CPU_BUCKET}),
            **({"offload_optimizer": to_host} if config.offload != "none" else {}),
            **({"offload_param": to_host} if config.offload == "parameters" else {}),
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        # in bfloat16 a micro-batch's gradient under 1/256 of the sum would be lost
        **({"data_types": {"grad_accum_dtype": "fp32"}} if dtype == "bfloat16" and config.zero_stage >= 2 else {}),
        "gradient_clipping": settings.max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.lr,
                "betas": [settings.beta1, settings.beta2],
                "eps": settings.eps,
                "weight_decay": settings.weight_decay,
                "torch_adam": True,
                # ZeRO steps one tensor of all numbers: unfused, each operation would allocate another of its size
                "fused": True,
            },
        },
    }
