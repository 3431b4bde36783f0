"""A penalty for completions that are too short or too long."""

from typing import ClassVar, Literal

from pydantic import Field

from common.errors import ConfigError
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest, RewardResult


@builtin_reward("length")
class LengthPenalty:
    """0.0 for a length n within the limits, falling linearly to -1.0 outside.

    Formula: 0 for `low` <= n <= `high`; (n - low) / low below; -min(1, (n - high) / width) above.
    Range: -1 to 0.
    Source: the upper side is DAPO's soft overlong punishment (Yu et al. 2025, equation 13), whose L_max is `high` +
    `width` and whose L_cache is `width`.
    Needs: the tokens, or `unit: characters`. None if only the text is known.
    Caution: keep `high` + `width` at or under `rollout.max_tokens`; truncated completions get the full penalty.
    """

    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    """Lowest and highest value."""

    low: int = Field(default=0, ge=0)
    """Length from which a completion is long enough; 0 for no lower bound."""
    high: int = Field(default=384, ge=1)
    """Length up to which a completion is short enough."""
    width: int = Field(default=128, ge=1)
    """Units beyond `high` after which the penalty is full."""
    unit: Literal["tokens", "characters"] = "tokens"
    """The unit of lengths."""

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ConfigError(
                f"length.high must be a whole number >= {self.low}, got {self.high}; length.low is {self.low}"
            )

    def __call__(self, request: RewardRequest) -> RewardResult:
        if self.unit == "characters":
            num = len(request.completion)
        elif request.completion and not request.token_ids:
            return RewardResult(value=None, detail="tokens are not known; unit: characters counts without them")
        else:
            num = len(request.token_ids)
        return RewardResult(value=self._value(num), facts={"length": float(num)})

    def _value(self, num: int) -> float:
        if num < self.low:
            return (num - self.low) / self.low
        return -min(1.0, (num - self.high) / self.width) if num > self.high else 0.0
