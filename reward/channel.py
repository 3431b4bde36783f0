"""What leads to a reward that lives elsewhere: one process, actor or service."""

from collections.abc import Sequence
from typing import Protocol

from common.errors import RewardError
from reward.outcome import FaultKind, Outcome
from reward.request import RewardRequest


class ChannelLostError(RewardError):
    """Whom a channel leads to is gone, or cannot be reached; asking another may help."""

    def __init__(self, message: str, *, kind: FaultKind = "died") -> None:
        super().__init__(message)
        self.kind: FaultKind = kind


class ChannelEndedError(ChannelLostError):
    """The channel was ended for another call's sake."""


class Channel(Protocol):
    """A way to one process, actor or service."""

    takes_groups: bool
    """Whether one call is for a whole group."""
    concurrency: int
    """Calls at a time."""
    decision: str
    """How it is called, for people; empty where there is nothing to tell."""

    @property
    def is_lost(self) -> bool:
        """Whether it leads nowhere."""
        ...

    async def open(self) -> None:
        """Until it can be asked.

        Raises:
            ConfigError: what is configured cannot be.
            ChannelLostError: it did not come up.
        """
        ...

    async def ask(self, requests: Sequence[RewardRequest]) -> list[Outcome]:
        """One call.

        Raises:
            ChannelLostError: it was lost meanwhile.
        """
        ...

    async def where(self) -> str:
        """Where it is stuck, as far as that can be told."""
        ...

    async def abandon(self) -> bool:
        """Has a call that was given up stop; whether calls share the channel, and it had to be ended."""
        ...

    def end(self) -> None:
        """For good; harmless when repeated."""
        ...
