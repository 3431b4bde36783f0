"""Configuration of the supervised stage, the cold start."""

from typing import Literal

from pydantic import Field

from common.config.base import Config, changeable
from common.config.learner import OptimizerConfig


class SftOptimizerConfig(OptimizerConfig):
    """AdamW and its schedule in the supervised stage: only the defaults differ."""

    lr: float = Field(default=2e-5, gt=0, lt=1)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Schedule of the learning rate after the warm-up."""


class SftConfig(Config):
    """Supervised training on explanations, before GRPO."""

    steps: int = Field(default=0, ge=0)
    """Number of optimizer steps of the supervised stage; 0, without `epochs`, leaves it out."""
    epochs: float | None = Field(default=None, gt=0)
    """Times that each clip is trained on, rounded up to whole steps, in place of `steps`."""
    examples_per_step: int = Field(default=16, ge=1)
    """Number of clips consumed by one step, over all ranks."""
    steps_per_checkpoint: int = changeable(50, ge=1)
    """Number of steps between two checkpoints that the stage can be resumed from."""
    optimizer: SftOptimizerConfig = SftOptimizerConfig()
    """AdamW and its schedule, apart from the reinforcement's."""

    @property
    def is_wanted(self) -> bool:
        return self.steps > 0 or self.epochs is not None
