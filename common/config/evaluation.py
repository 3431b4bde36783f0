"""Configuration of the evaluation on held-out clips."""

from typing import Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config
from common.types import Control

Policy = Literal["untrained", "cold_start", "grpo"]


class EvaluationConfig(Config):
    """The evaluation on held-out clips."""

    policies: tuple[Policy, ...] = ()
    """Policies to evaluate on the held-out clips: before training, after the cold start, at the end."""
    controls: tuple[Control, ...] = ()
    """Other conditions in which the last policy is evaluated: without sound, without thinking, ..."""
    every_checkpoints: int = Field(default=0, ge=0)
    """Number of checkpoints between two results on `data.validation`, of which the best is kept; 0 for none."""
    max_in_flight: int = Field(default=32, ge=1)
    """Largest number of clips in flight."""

    @model_validator(mode="after")
    def controls_are_of_a_policy_that_is_judged(self) -> Self:
        # controls are compared with the answers to the unchanged clips
        if self.controls and "grpo" not in self.policies:
            raise ValueError(
                "evaluation.policies must hold grpo with evaluation.controls, got "
                f"{list(self.policies)}; add it, or leave the controls out"
            )
        return self
