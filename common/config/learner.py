"""Configuration of the learner plane."""

import fnmatch
from typing import Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config, changeable


class OptimizerConfig(Config):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-6, gt=0, lt=1)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Schedule of the learning rate after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Number added to AdamW's denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; biases and the weights of norms have none."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm above which gradients are scaled down."""


class PublishConfig(Config):
    """Publishing of weights to the engines."""

    bucket_bytes: int = Field(default=256 * 2**20, ge=2**16)
    """Size of one of the two shared-memory segments; a larger layer gets a larger segment."""
    deadline_s: float = Field(default=300.0, gt=0)
    """Seconds that one phase of a publish may take before the run stops with the phase's name."""
    rehearsal: bool = True
    """Verify, before an engine serves, that each published layer changes its computation."""
    rehearsal_scale: float | None = Field(default=None, gt=0, le=10)
    """Noise the rehearsal mixes in, relative to each tensor; 3 unless given."""
    canary_tolerance: float = Field(default=1e-4, gt=0)
    """Largest log-probability difference of the probe in float32."""
    canary_noise_factor: float = Field(default=3.0, ge=1)
    """Tolerance in bfloat16, as a multiple of the noise measured at version 0."""
    canary_noise_limit: float = Field(default=0.25, gt=0)
    """Largest noise in bfloat16 that counts as rounding; more means that the engine computes something else."""
    probe_tokens: int = Field(default=16, ge=1)
    """Tokens that the engine generates for each probe prompt."""


class CheckpointConfig(Config):
    """Checkpoints, from which a run resumes."""

    every_steps: int = Field(default=20, ge=1)
    """Steps between two checkpoints; the last step always leaves one."""
    keep: int = Field(default=2, ge=1)
    """Number of newest checkpoints that are kept."""


class LoraConfig(Config):
    """Low-rank adapters, which train in place of the layers that they sit beside."""

    rank: int = Field(default=16, ge=1)
    """Columns of an adapter's two matrices."""
    alpha: float = Field(default=32.0, gt=0)
    """An adapter's share is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are left out in training."""
    targets: tuple[str, ...] = Field(default=("thinker.model.layers.*_proj",), min_length=1)
    """Shell patterns of the linear layers that get one, those that `learner.freeze` matches left out."""


class ObjectiveConfig(Config):
    """The settings of the GRPO loss."""

    beta: float
    """Weight of the KL to the frozen reference."""
    clip_low: float
    """Lower clipping distance of the ratio."""
    clip_high: float
    """Upper clipping distance of the ratio."""
    aggregation: Literal["sequence", "token", "constant"]
    """Aggregation of token losses."""


class LearnerConfig(Config):
    """Ranks, loss and optimizer."""

    num_ranks: int = changeable(1, ge=1)
    """Number of DeepSpeed ranks, one Ray actor each."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """State that DeepSpeed partitions: nothing (0), the optimizer (1), also gradients (2), also parameters (3)."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """State in host memory: the optimizer's, or also the parameters."""
    gradient_checkpointing: bool = False
    """Recompute layers in the backward pass instead of keeping activations."""
    steps: int = changeable(100, ge=1)
    """Number of steps of the run; each trains on one batch of groups and publishes once."""
    epochs: float | None = Field(default=None, gt=0)
    """Number of passes over the clips, rounded up to whole steps, in place of `steps`."""
    groups_per_step: int = Field(default=16, ge=1)
    """Number of groups consumed by one step, over all ranks."""
    updates_per_step: int = Field(default=1, ge=1)
    """Number of optimizer updates on each batch; with more than one the ratio leaves 1 and is clipped."""
    max_rows_per_micro_batch: int = changeable(8, ge=1)
    """Most completions of one forward and backward pass; fewer take less memory."""
    max_tokens_per_micro_batch: int = changeable(16384, ge=1)
    """Most tokens of one pass, padding counted and a prompt once per group; a group over it is cut by rows."""
    max_staleness: int = Field(default=0, ge=0)
    """Number of publishes by which a group may lag when it is trained; 0 is strictly on-policy."""
    max_redraws: int = Field(default=3, ge=0)
    """Number of redraws of a stale draw before it counts as failed."""
    old_logprobs: Literal["learner", "rollout"] = "learner"
    """Source of the old log-probabilities in the ratio; `learner` is the paper."""
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """Aggregation of token losses; `sequence` is the paper."""
    beta: float = Field(default=0.04, ge=0)
    """Weight of the KL to the frozen reference; 0 loads none."""
    reference: Literal["resident", "offloaded"] = "resident"
    """Memory of the frozen reference between two uses: device or host; every rank has all of it."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clipping distance of the ratio."""
    clip_high: float = Field(default=0.2, gt=0)
    """Upper clipping distance of the ratio."""
    freeze: tuple[str, ...] = ()
    """Shell patterns of parameter names that are not trained, such as `thinker.visual.*`."""
    lora: LoraConfig | None = None
    """Adapters to train in place of the weights; without them the policy is its own frozen reference."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    publish: PublishConfig = changeable(PublishConfig())
    """Publishing of weights to the engines."""
    checkpoint: CheckpointConfig = changeable(CheckpointConfig())
    """Checkpoints, from which a run resumes."""
    num_cpus: float = changeable(0.5, ge=0)
    """Ray CPUs that one rank takes."""
    num_gpus: float = changeable(0.0, ge=0)
    """Ray GPUs that one rank takes."""
    num_threads: int = changeable(1, ge=1)
    """OpenMP threads of one rank; apart from Ray's accounting."""
    deadline_s: float = changeable(3600.0, gt=0)
    """Seconds that one step may take before the run stops."""
    max_non_finite_steps: int = changeable(3, ge=0)
    """Number of steps in a row that are left out where loss or gradient is not finite; one more stops the run."""
    max_rebuilds: int = changeable(3, ge=0)
    """Number of times in a row, without a new checkpoint, that ranks which died are rebuilt from the last one."""

    @property
    def objective(self) -> ObjectiveConfig:
        return ObjectiveConfig(**{name: getattr(self, name) for name in ObjectiveConfig.model_fields})

    @model_validator(mode="after")
    def offload_must_have_its_stage(self) -> Self:
        # only a partitioned state can be offloaded
        if self.offload == "optimizer" and self.zero_stage < 1:
            raise ValueError(
                f"learner.offload must be none at zero_stage 0, got {self.offload!r}; take zero_stage 1, 2 or 3"
            )
        if self.offload == "parameters" and self.zero_stage < 3:
            raise ValueError(
                f"learner.offload=parameters must come with zero_stage 3, got {self.zero_stage}; "
                "take zero_stage 3, or offload the optimizer alone"
            )
        return self

    @model_validator(mode="after")
    def adapters_sit_beside_what_is_not_frozen(self) -> Self:
        # patterns are checked here; the layers themselves when the model is loaded
        if self.lora and all(_is_frozen(target, self.freeze) for target in self.lora.targets):
            raise ValueError(
                "learner.lora.targets must match a layer that learner.freeze leaves, got "
                f"{list(self.lora.targets)} with freeze={list(self.freeze)}; freeze less"
            )
        return self


def _is_frozen(target: str, patterns: tuple[str, ...]) -> bool:
    """True if a pattern of stars alone covers everything that a target can match."""
    return any(fnmatch.fnmatchcase(f"{target}.weight", p) for p in patterns if not set(p) & set("?["))
