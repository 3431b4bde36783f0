"""A penalty for completions that are too short or too long."""

from typing import ClassVar, Literal

from pydantic import Field

from common.errors import ConfigError
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest, RewardResult


@builtin_reward("length")
class LengthPenalty:
    """0.0 for a length n within bounds, falling linearly to -1.0 outside.

    Formula: 0 for `low` <= n <= `high`; (n - low) / low below; -min(1, (n - high) / width) above. Range: -1 to 0.
    Source: above `high`, DAPO's soft overlong punishment (Yu et al. 2025, equation 13).
    Needs: the tokens, or `unit: characters`. None if only the text is known.
    Caution: keep `high` + `width` within `rollout.sampling.max_tokens`; truncated completions get the full penalty.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)

    low: int = Field(default=0, ge=0)
    """Shortest length without a penalty; 0 for no lower bound."""
    high: int = Field(default=384, ge=1)
    """Longest length without a penalty."""
    width: int = Field(default=128, ge=1)
    """Units beyond `high` at which the penalty is full."""
    unit: Literal["tokens", "characters"] = "tokens"
    """Unit of the length."""

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ConfigError(f"length.high must be >= length.low, {self.low}, got {self.high}; raise high")

    def __call__(self, request: RewardRequest) -> RewardResult:
        text = request.completion
        if self.unit == "tokens" and text and not request.token_ids:
            return RewardResult(value=None, detail="tokens are not known; unit: characters counts without them")
        num = len(text if self.unit == "characters" else request.token_ids)
        if num < self.low:
            value = (num - self.low) / self.low
        else:
            value = -min(1.0, (num - self.high) / self.width) if num > self.high else 0.0
        return RewardResult(value=value, facts={"length": float(num)})
