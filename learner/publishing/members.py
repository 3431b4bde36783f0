"""The engines that take part in a transfer or a rehearsal. An engine that fails leaves, and the others go on."""

from collections.abc import Callable, Sequence

from common.errors import PublishError
from common.protocols import WeightReceiver


class Members:
    """Engines with an outcome each: a member remains, is lost, or is rejected."""

    def __init__(
        self, engines: Sequence[WeightReceiver], *, on_lost: Callable[[WeightReceiver, PublishError], None]
    ) -> None:
        """`on_lost` is called at once with each engine that leaves."""
        self.engines = list(engines)
        """The members that remain."""
        self._on_lost = on_lost
        self._rejections: list[PublishError] = []

    def lose(self, engine: WeightReceiver, error: PublishError) -> None:
        """Removes an engine that failed or passed a deadline."""
        self.engines.remove(engine)
        self._on_lost(engine, error)

    def reject(self, engine: WeightReceiver, error: PublishError) -> None:
        """Removes an engine that answered, and failed a verification."""
        self._rejections.append(error)
        self.lose(engine, error)

    def dismiss(self, engine: WeightReceiver) -> None:
        """Removes an engine that has neither passed nor failed."""
        self.engines.remove(engine)

    def require_verified(self) -> None:
        """Raises the first rejection if no member remains: no engine can hold these weights."""
        if self._rejections and not self.engines:
            raise self._rejections[0]
