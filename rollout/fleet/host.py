"""The seams of a fleet: the host, which makes and ends engines, and an engine as the fleet sees it."""

from typing import TYPE_CHECKING, Protocol

from common.protocols import WeightReceiver

if TYPE_CHECKING:
    from rollout.engine_stats import EngineStats


class ManagedEngine(WeightReceiver, Protocol):
    """One incarnation of an engine. `name` is its slot's."""

    node: str | None
    """Id of its node; None before it has a place."""

    async def heartbeat(self) -> None:
        """Returns when all of vLLM's workers have answered; has no deadline."""
        ...

    async def stats(self) -> "EngineStats": ...

    async def processes(self) -> dict[str, int]: ...


class EngineHost(Protocol):
    """Makes engines and ends them; each call has its own deadline."""

    async def ask(self, incarnation: str, *, slot: str) -> ManagedEngine:
        """Returns when the engine has a place in the cluster."""
        ...

    async def warm_up(self, engine: ManagedEngine) -> None:
        """Returns when the engine has run the largest shapes of the run.

        Raises:
            EngineStartError: it could not start.
            ClusterError: it runs other sources than the driver.
        """
        ...

    async def end(self, incarnation: str, *, is_lost: bool) -> None:
        """Ends all processes of an incarnation, stopped ones too, and removes what they held.

        May be called at any time after `ask` began, and again. `is_lost` skips the farewell.
        """
        ...
