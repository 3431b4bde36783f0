"""Configuration of the supervised stage, the cold start."""

from pydantic import Field

from common.config.base import Config
from common.config.learner import OptimizerConfig


class SftConfig(Config):
    """Supervised training on explanations, before the reinforcement."""

    steps: int = Field(default=0, ge=0)
    """Optimizer steps; 0 leaves the stage out."""
    examples_per_step: int = Field(default=16, ge=1)
    """Clips consumed by one step, over all ranks."""
    steps_per_checkpoint: int = Field(default=50, ge=1)
    """Steps between two checkpoints that the stage can be resumed from."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-5, schedule="cosine")
    """AdamW and its schedule, apart from the reinforcement's."""
