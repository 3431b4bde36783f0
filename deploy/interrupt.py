"""Ctrl-C and SIGTERM: once to stop cleanly, twice to stop at once. Output without a reader counts as a signal."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from common.errors import StopRequestedError


class Interrupts:
    """Signals that stop the run, and the loop that is notified."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._listener: Callable[[], None] | None = None
        self.is_requested = False

    def install(self) -> None:
        """Installs the signal handlers; after Ray, which would replace that of SIGTERM."""
        stop = self.stopper()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)

    def stopper(self) -> Callable[[], None]:
        """A function that requests a stop as a signal does, from any thread."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            loop.call_soon_threadsafe(self._request, task)

        return stop

    async def run_until_stopped(
        self,
        work: Callable[[], Awaitable[None]],
        *,
        save_checkpoint: Callable[[], Awaitable[None]],
        listener: Callable[[], None],
    ) -> None:
        """Runs work that stops between two steps on request, and then saves a checkpoint.

        Raises:
            StopRequestedError: a stop was requested, and everything is saved.
        """
        with self.cleanly(listener):
            self.check()
            try:
                await work()
            except StopRequestedError:
                # only this error guarantees a complete step
                await save_checkpoint()
                raise

    @contextmanager
    def cleanly(self, listener: Callable[[], None]) -> Generator[None]:
        """Inside the block the first signal calls the listener instead of ending the run."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    def check(self) -> None:
        """Raises `StopRequestedError` if a stop was requested."""
        if self.is_requested:
            raise StopRequestedError("the run was asked to stop")

    def _request(self, task: asyncio.Task[object]) -> None:
        if self._listener is not None and not self.is_requested:
            self._say("stopping when this step is done; once more to stop at once")
            self.is_requested = True
            self._listener()
        else:
            task.cancel()
