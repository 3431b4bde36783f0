"""Prepared clips that are lost before their use, for example with the node that held them. They are made again.

A loss is no failure of whoever needed the clip: an engine or a rank reports it as data, before it starts any work.
"""

from collections.abc import Awaitable, Callable
from typing import TypeGuard, TypeVar

from common.types import Failure, MediaRef

T = TypeVar("T")
MAX_LOSSES = 3
"""Number of times that a lost clip is made again for one draw; one more loss fails the draw."""
NOT_STARTED = Failure(stage="media", reason="not-started", detail="another clip of the batch was lost")
"""Answer for the other prompts of a batch in lockstep, which starts as a whole or not at all."""


def lost_clip(cause: str) -> Failure:
    return Failure(stage="media", reason="lost", detail=cause)


def is_lost(answer: object) -> TypeGuard[Failure]:
    return isinstance(answer, Failure) and (answer.stage, answer.reason) == ("media", "lost")


async def with_clip(
    prepare: Callable[..., Awaitable[tuple[MediaRef, int] | Failure]],
    use: Callable[[MediaRef, int], Awaitable[T | Failure]],
) -> T | Failure:
    """Prepares a clip and uses it; a clip that is lost in between is prepared again.

    Args:
        prepare: a `PrepareFn` with all arguments but `lost`.
        use: gets the handle and the length in tokens; the same clip must have the same result.

    Returns:
        The result of `use`, or the failure of either.
    """
    num_losses, lost = 0, None
    while True:
        prepared = await prepare(lost=lost)
        if isinstance(prepared, Failure):
            return prepared
        result = await use(*prepared)
        num_losses += is_lost(result)
        if not is_lost(result) or num_losses > MAX_LOSSES:
            return result
        lost = prepared[0]
