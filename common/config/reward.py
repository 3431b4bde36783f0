"""Configuration of the reward plane."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.config.base import Config, changeable


class AccuracyRewardConfig(Config):
    """The paper's exact match of the answer."""

    type: Literal["accuracy"]
    """Chooses this reward."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the reward in the sum."""


class FormatRewardConfig(Config):
    """The paper's regular expression over the whole completion."""

    type: Literal["format"]
    """Chooses this reward."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the reward in the sum."""


class PythonRewardConfig(Config):
    """A function of one's own: `my_rewards:brevity`, called with `completion` and `label`, both texts."""

    type: Literal["python"]
    """Chooses this reward."""
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the reward in the breakdown and the metrics."""
    entrypoint: str = Field(pattern=r"^[\w.]+:\w+$")
    """Module and function, importable where the run was started."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the reward in the sum."""


AnyRewardConfig = Annotated[
    AccuracyRewardConfig | FormatRewardConfig | PythonRewardConfig, Field(discriminator="type")
]


class RewardConfig(Config):
    """What completions are worth."""

    rewards: tuple[AnyRewardConfig, ...] = (
        AccuracyRewardConfig(type="accuracy"),
        FormatRewardConfig(type="format"),
    )
    """Rewards that are weighted and summed: a list of any of these."""
    num_cpus: float = changeable(0.1, ge=0)
    """Ray CPUs of the reward actor."""
    deadline_s: float = changeable(60.0, gt=0)
    """Seconds until the scoring of a group counts as failed; from when its turn has come."""
    max_concurrency: int = changeable(4, ge=1)
    """Groups that are scored at a time, in threads of one process; 1 for rewards that are not thread-safe."""
    max_retries: int = changeable(2, ge=0)
    """Times that a group is scored again, with nobody beside, after the process died while it was scored."""

    @model_validator(mode="after")
    def each_reward_is_named_once(self) -> Self:
        """The breakdown is keyed by name."""
        names = [reward_name(r) for r in self.rewards]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(
                f"reward.rewards must name each reward once, got {twice!r} twice; remove one, or give a python "
                "reward another name"
            )
        return self

    @model_validator(mode="after")
    def something_is_rewarded(self) -> Self:
        """A sum over nothing is the same for every completion."""
        if not self.rewards:
            raise ValueError(
                "reward.rewards must hold at least one reward, got []; leave the key out for accuracy and format"
            )
        return self


def reward_name(reward: AccuracyRewardConfig | FormatRewardConfig | PythonRewardConfig) -> str:
    """What a reward is called in the breakdown."""
    return reward.name if isinstance(reward, PythonRewardConfig) else reward.type
