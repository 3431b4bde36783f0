"""The states of a fleet's engines, as a pure state machine: no Ray, no clock, no asyncio.

A slot (`engine-1`) has one incarnation (`engine-1.2`) at a time.

    ASKED -> STARTING -> REHEARSING -> WAITING -> READY(v) -> DRAINING -> CONDEMNED -> GONE
    READY(v) <-> PINNED(v), back through WAITING if v is old by then
    every state before CONDEMNED -- lost --> CONDEMNED

READY is reached only by a delivery whose members were fixed before its transfer began. CONDEMNED leads to GONE
alone: events of a condemned incarnation that arrive late are void.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.errors import FleetError

BACKOFF_S = (0.0, 5.0, 20.0)
"""Seconds before a slot asks for its next incarnation, by the number of its losses in a row."""
MAX_LOSSES = 3
"""Losses of a slot, without a publish in READY, that retire it."""


class State(StrEnum):
    """The state of an incarnation."""

    ASKED = "asked"
    """An actor was requested, and Ray has no place for it yet."""
    STARTING = "starting"
    """The model loads and warms up."""
    REHEARSING = "rehearsing"
    """The engine is warm; no rehearsal has verified it yet."""
    WAITING = "waiting"
    """The engine is verified and does not hold the fleet's version; it serves nothing."""
    READY = "ready"
    PINNED = "pinned"
    """Lent to an evaluation: no training request and no publish reaches the engine."""
    DRAINING = "draining"
    """The engine finishes its requests and gets no new ones."""
    CONDEMNED = "condemned"
    """Its answers are void; its processes are being ended."""
    GONE = "gone"
    """Nothing of it is left."""


BEFORE_READY = (State.ASKED, State.STARTING, State.REHEARSING, State.WAITING)
ENDED = (State.CONDEMNED, State.GONE)


@dataclass(kw_only=True, slots=True)
class Incarnation:
    """One start of one engine."""

    slot: str
    number: int
    """Counted from 1 within the slot."""
    state: State = State.ASKED
    version: int | None = None
    """The policy version that a delivery left in the engine; None before the first."""
    reason: str = ""
    """The cause of its loss."""

    @property
    def name(self) -> str:
        return f"{self.slot}.{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One transfer of weights, with the members that it began with."""

    number: int
    version: int
    members: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Slot:
    """One place in the fleet."""

    name: str
    incarnation: Incarnation | None = None
    num_incarnations: int = 0
    num_losses: int = 0
    """Losses since a publish found an incarnation of the slot in READY."""
    not_before_s: float = 0.0
    """Time of the next incarnation's request."""
    retired: str = ""
    """The reason why the slot asks for no more incarnations; empty while it does."""


OnChange = Callable[[Incarnation, State], None]
"""Called after each transition and delivery with the incarnation and its earlier state."""


class Lifecycle:
    """The states of all slots. Its owner alone sends events; times are seconds of the owner's clock."""

    def __init__(
        self,
        slots: Sequence[str],
        *,
        min_engines: int,
        version: int = 0,
        on_change: OnChange = lambda incarnation, before: None,
    ) -> None:
        """`version` is the policy version that a delivery must have to make engines READY."""
        self.version = version
        self._slots = {name: Slot(name=name) for name in slots}
        self._incarnations: dict[str, Incarnation] = {}
        self._min_engines, self._on_change = min_engines, on_change
        self._num_deliveries = 0
        self._open: Delivery | None = None

    def __getitem__(self, name: str) -> Incarnation:
        return self._incarnations[name]

    def in_state(self, *states: State) -> list[Incarnation]:
        current = (slot.incarnation for slot in self._slots.values())
        return [incarnation for incarnation in current if incarnation and incarnation.state in states]

    @property
    def serving(self) -> list[Incarnation]:
        return [i for i in self.in_state(State.READY) if i.version == self.version]

    @property
    def num_possible(self) -> int:
        """Slots that have an engine or may still get one."""
        return sum(not slot.retired for slot in self._slots.values())

    @property
    def has_started(self) -> bool:
        """True if the engines are warm; one that was lost may follow later if enough others are."""
        warm = (State.REHEARSING, State.WAITING, State.READY, State.PINNED, State.DRAINING)
        missing = [
            slot
            for slot in self._slots.values()
            if not slot.retired and (slot.incarnation is None or slot.incarnation.state not in warm)
        ]
        num_warm = len(self.in_state(*warm))
        return not missing or (num_warm >= max(1, self._min_engines) and all(slot.num_losses for slot in missing))

    def require_possible(self) -> None:
        """Raises `FleetError` if too few slots can still have an engine."""
        if self.num_possible < self._min_engines:
            reasons = "; ".join(f"{slot.name}: {slot.retired}" for slot in self._slots.values() if slot.retired)
            raise FleetError(
                f"a fleet must have at least {self._min_engines} engines that can start, got {self.num_possible}: "
                f"{reasons}"
            )

    def ask(self, now_s: float) -> list[Incarnation]:
        """Requests an incarnation for every empty slot whose back-off is over; returns the new ones."""
        requested: list[Incarnation] = []
        for slot in self._slots.values():
            is_empty = slot.incarnation is None or slot.incarnation.state == State.GONE
            if is_empty and not slot.retired and slot.not_before_s <= now_s:
                slot.num_incarnations += 1
                slot.incarnation = Incarnation(slot=slot.name, number=slot.num_incarnations)
                self._incarnations[slot.incarnation.name] = slot.incarnation
                self._on_change(slot.incarnation, State.ASKED)
                requested.append(slot.incarnation)
        return requested

    def next_request_s(self) -> float | None:
        """Time of the next incarnation that a back-off delays; None without one."""
        empty = [s for s in self._slots.values() if s.incarnation is None or s.incarnation.state == State.GONE]
        return min((slot.not_before_s for slot in empty if not slot.retired), default=None)

    def placed(self, name: str) -> bool:
        return self._advance(name, State.ASKED, State.STARTING)

    def warmed_up(self, name: str) -> bool:
        return self._advance(name, State.STARTING, State.REHEARSING)

    def rehearsed(self, name: str) -> bool:
        return self._advance(name, State.REHEARSING, State.WAITING)

    def begin_delivery(self, version: int, *, only_joining: bool = False) -> Delivery:
        """Fixes the members of a transfer: all WAITING engines, and all READY ones unless only engines join."""
        assert self._open is None, "one delivery at a time"
        states = (State.WAITING,) if only_joining else (State.WAITING, State.READY)
        self._num_deliveries += 1
        members = tuple(incarnation.name for incarnation in self.in_state(*states))
        self._open = Delivery(number=self._num_deliveries, version=version, members=members)
        return self._open

    def delivered(self, delivery: Delivery, name: str) -> bool:
        """Makes a member READY; False if it was lost meanwhile."""
        assert delivery == self._open, "only the open delivery delivers"
        assert name in delivery.members, "only a member of the delivery is delivered"
        incarnation = self._incarnations[name]
        if incarnation.state in ENDED:
            return False
        assert incarnation.state in (State.WAITING, State.READY, State.DRAINING), incarnation
        if incarnation.state == State.READY:
            # the engine served one version and took the next: its slot is sound
            self._slots[incarnation.slot].num_losses = 0
        incarnation.version = delivery.version
        if incarnation.state != State.DRAINING:
            before, incarnation.state = incarnation.state, State.READY
            self._on_change(incarnation, before)
        return True

    def end_delivery(self, delivery: Delivery) -> None:
        """Closes a transfer, whose version the fleet then has; READY engines with another version wait."""
        assert delivery == self._open, "only the open delivery ends"
        self._open = None
        self.version = delivery.version
        for incarnation in self.in_state(State.READY):
            if incarnation.version != self.version:
                self._move(incarnation, State.WAITING)

    def abort_delivery(self, delivery: Delivery) -> None:
        """Closes a transfer that did not finish; its members may hold parts of it, so they wait."""
        assert delivery == self._open, "only the open delivery ends"
        self._open = None
        for name in delivery.members:
            incarnation = self._incarnations[name]
            if incarnation.state in (State.WAITING, State.READY):
                incarnation.version = None
                self._move(incarnation, State.WAITING)

    def lend(self, name: str) -> bool:
        return self._advance(name, State.READY, State.PINNED)

    def give_back(self, name: str) -> bool:
        """Ends a loan: READY if the engine still has the fleet's version, else WAITING."""
        is_current = self._incarnations[name].version == self.version
        return self._advance(name, State.PINNED, State.READY if is_current else State.WAITING)

    def drain(self, name: str) -> bool:
        """Takes an engine out of service; False if it was lost meanwhile."""
        incarnation = self._incarnations[name]
        if incarnation.state in (*ENDED, State.DRAINING):
            return False
        self._move(incarnation, State.DRAINING)
        return True

    def drained(self, name: str) -> bool:
        """Ends an engine whose requests are done; this is no loss."""
        return self._advance(name, State.DRAINING, State.CONDEMNED)

    def lost(self, name: str, *, reason: str, now_s: float, is_fault_of_draw: bool = False) -> bool:
        """Condemns an incarnation; False if it was condemned before.

        A loss that a draw caused does not count against the slot.
        """
        incarnation = self._incarnations[name]
        if incarnation.state in ENDED:
            return False
        slot = self._slots[incarnation.slot]
        incarnation.reason = reason
        self._move(incarnation, State.CONDEMNED)
        slot.num_losses += not is_fault_of_draw
        slot.not_before_s = now_s + BACKOFF_S[min(max(slot.num_losses - 1, 0), len(BACKOFF_S) - 1)]
        if slot.num_losses >= MAX_LOSSES:
            slot.retired = f"lost {slot.num_losses} times in a row, at last because {reason}"
        return True

    def retire(self, name: str, *, reason: str) -> None:
        """Ends the slot of an incarnation for good."""
        self._slots[self._incarnations[name].slot].retired = reason

    def reaped(self, name: str) -> bool:
        return self._advance(name, State.CONDEMNED, State.GONE)

    def _advance(self, name: str, before: State, after: State) -> bool:
        incarnation = self._incarnations[name]
        if incarnation.state in ENDED and before not in ENDED:
            return False
        assert incarnation.state == before, f"{name} must be {before}, got {incarnation.state}"
        self._move(incarnation, after)
        return True

    def _move(self, incarnation: Incarnation, after: State) -> None:
        before, incarnation.state = incarnation.state, after
        if before != after:
            self._on_change(incarnation, before)
