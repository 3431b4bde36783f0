"""Configuration of the evaluation on held-out clips."""

from typing import Literal

from pydantic import Field

from common.config.base import Config

Policy = Literal["untrained", "cold_start", "grpo"]


class EvaluationConfig(Config):
    """When the held-out clips are asked, and how."""

    policies: tuple[Policy, ...] = ()
    """Which policies are judged on the held-out clips: before anything, after the supervised stage, at the end."""
    every_checkpoints: int = Field(default=0, ge=0)
    """Number of checkpoints between two judgements on `data.validation`, of which the best is kept; 0 for none."""
    max_in_flight: int = Field(default=32, ge=1)
    """Number of clips asked at once."""
