"""Configuration of the reward plane."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config


class AccuracyRewardConfig(Config):
    """The paper's exact match of the answer."""

    type: Literal["accuracy"]
    """Chooses this reward."""
    weight: float = Field(default=1.0, ge=0)
    """Factor in the sum."""


class FormatRewardConfig(Config):
    """The paper's regular expression over the whole completion."""

    type: Literal["format"]
    """Chooses this reward."""
    weight: float = Field(default=1.0, ge=0)
    """Factor in the sum."""


class PythonRewardConfig(Config):
    """A function of one's own: `my_rewards:brevity`, called with `completion` and `label`, both texts."""

    type: Literal["python"]
    """Chooses this reward."""
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """In the breakdown and the metrics."""
    entrypoint: str = Field(pattern=r"^[\w.]+:\w+$")
    """Module and function, importable where the run was started."""
    weight: float = Field(default=1.0, ge=0)
    """Factor in the sum."""


AnyRewardConfig = Annotated[
    AccuracyRewardConfig | FormatRewardConfig | PythonRewardConfig, Field(discriminator="type")
]


class RewardConfig(Config):
    """What completions are worth."""

    rewards: tuple[AnyRewardConfig, ...] = (
        AccuracyRewardConfig(type="accuracy"),
        FormatRewardConfig(type="format"),
    )
    """Rewards that are weighted and summed."""
    num_cpus: float = Field(default=0.1, ge=0)
    """Ray CPUs of the reward actor."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds until the scoring of a group counts as failed; from when its turn has come."""
    max_concurrency: int = Field(default=4, ge=1)
    """Groups that are scored at a time, in threads of one process; 1 for rewards that are not thread-safe."""
    max_retries: int = Field(default=2, ge=0)
    """Times that a group is scored again, with nobody beside, after the process died while it was scored."""

    @model_validator(mode="after")
    def each_reward_is_named_once(self) -> Self:
        """The breakdown is keyed by name."""
        names = [reward_name(r) for r in self.rewards]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"reward.rewards must name each reward once, got {names}; remove the repetition")
        return self


def reward_name(reward: AccuracyRewardConfig | FormatRewardConfig | PythonRewardConfig) -> str:
    """What a reward is called in the breakdown."""
    return reward.name if isinstance(reward, PythonRewardConfig) else reward.type
