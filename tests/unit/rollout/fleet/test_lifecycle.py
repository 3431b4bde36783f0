"""The states of a fleet: the way to READY, the cost of a loss, and invariants over any order of events."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from common.errors import FleetError
from rollout.fleet.lifecycle import BACKOFF_S, ENDED, MAX_LOSSES, Incarnation, Lifecycle, State

SLOTS = ("engine-0", "engine-1", "engine-2")


def waiting(lifecycle: Lifecycle, *, now_s: float = 0.0) -> list[str]:
    """New incarnations of all empty slots, rehearsed."""
    names = [incarnation.name for incarnation in lifecycle.ask(now_s)]
    for name in names:
        for event in (lifecycle.placed, lifecycle.warmed_up, lifecycle.rehearsed):
            assert event(name)
    return names


def deliver(lifecycle: Lifecycle, version: int) -> list[str]:
    """A transfer in which nothing fails."""
    delivery = lifecycle.begin_delivery(version)
    for name in delivery.members:
        lifecycle.delivered(delivery, name)
    lifecycle.end_delivery(delivery)
    return list(delivery.members)


def names_of(incarnations: list[Incarnation]) -> list[str]:
    return [incarnation.name for incarnation in incarnations]


def test_a_warm_engine_serves_only_after_a_delivery() -> None:
    lifecycle = Lifecycle(SLOTS, min_engines=1)
    names = waiting(lifecycle)
    assert lifecycle.serving == []
    assert deliver(lifecycle, 1) == names
    assert names_of(lifecycle.serving) == ["engine-0.1", "engine-1.1", "engine-2.1"]


def test_an_engine_that_comes_during_a_transfer_is_no_member_of_it() -> None:
    lifecycle = Lifecycle(SLOTS[:2], min_engines=1)
    first, second = names_of(lifecycle.ask(0.0))
    for event in (lifecycle.placed, lifecycle.warmed_up, lifecycle.rehearsed):
        event(first)
    delivery = lifecycle.begin_delivery(1)
    for event in (lifecycle.placed, lifecycle.warmed_up, lifecycle.rehearsed):
        event(second)
    with pytest.raises(AssertionError, match="only a member"):
        lifecycle.delivered(delivery, second)
    lifecycle.delivered(delivery, first)
    lifecycle.end_delivery(delivery)
    assert (names_of(lifecycle.serving), lifecycle[second].state) == ([first], State.WAITING)


def test_an_engine_that_a_publish_did_not_reach_waits_for_the_next() -> None:
    lifecycle = Lifecycle(SLOTS[:2], min_engines=1)
    first, second = waiting(lifecycle)
    deliver(lifecycle, 1)
    lifecycle.lend(second)
    delivery = lifecycle.begin_delivery(2)
    assert delivery.members == (first,)
    lifecycle.delivered(delivery, first)
    lifecycle.end_delivery(delivery)
    lifecycle.give_back(second)
    assert (lifecycle[second].state, names_of(lifecycle.serving)) == (State.WAITING, [first])


def test_an_engine_that_comes_back_while_its_version_stands_serves_at_once() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=1)
    (name,) = waiting(lifecycle)
    deliver(lifecycle, 1)
    lifecycle.lend(name)
    assert lifecycle.serving == []
    lifecycle.give_back(name)
    assert names_of(lifecycle.serving) == [name]


def test_late_events_of_a_condemned_incarnation_are_void() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=1)
    (name,) = waiting(lifecycle)
    delivery = lifecycle.begin_delivery(1)
    assert lifecycle.lost(name, reason="killed", now_s=1.0)
    assert not lifecycle.delivered(delivery, name)
    assert not lifecycle.lost(name, reason="again", now_s=2.0)
    assert not lifecycle.drain(name)
    assert not lifecycle.lend(name)
    assert (lifecycle[name].state, lifecycle[name].reason) == (State.CONDEMNED, "killed")


def test_a_slot_asks_again_only_when_nothing_of_its_engine_is_left_and_the_back_off_is_over() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=0)
    now_s = 100.0
    for number, backoff_s in enumerate(BACKOFF_S[: MAX_LOSSES - 1], start=1):
        (asked,) = lifecycle.ask(now_s)
        assert asked.name == f"engine-0.{number}"
        lifecycle.lost(asked.name, reason="killed", now_s=now_s)
        assert lifecycle.ask(now_s + 1000.0) == []
        lifecycle.reaped(asked.name)
        assert lifecycle.next_request_s() == now_s + backoff_s
        if backoff_s:
            assert lifecycle.ask(now_s + backoff_s - 0.1) == []
        now_s += backoff_s


def lose(lifecycle: Lifecycle, name: str, **details: Any) -> None:
    lifecycle.lost(name, reason="CUDA error", now_s=0.0, **details)
    lifecycle.reaped(name)


def test_a_slot_that_is_lost_three_times_is_retired_with_the_reason() -> None:
    lifecycle = Lifecycle(SLOTS[:2], min_engines=2)
    for _ in range(MAX_LOSSES):
        lifecycle.require_possible()
        name = next(n for n in names_of(lifecycle.ask(1e6)) if n.startswith("engine-0"))
        lose(lifecycle, name)
    assert lifecycle.ask(1e9) == []
    with pytest.raises(FleetError, match=r"at least 2 engines .* got 1: engine-0: lost 3 times .* CUDA error"):
        lifecycle.require_possible()


def test_an_admission_does_not_clear_the_losses_of_a_slot() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=0)
    for _ in range(MAX_LOSSES):
        (name,) = waiting(lifecycle, now_s=1e6)
        deliver(lifecycle, 1)
        lose(lifecycle, name)
    assert lifecycle.num_possible == 0


def test_a_publish_that_finds_an_engine_ready_clears_the_losses_of_its_slot() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=0)
    for _ in range(MAX_LOSSES - 1):
        (name,) = waiting(lifecycle, now_s=1e6)
        deliver(lifecycle, 1)
        lose(lifecycle, name)
    (name,) = waiting(lifecycle, now_s=1e6)
    deliver(lifecycle, 1)
    deliver(lifecycle, 2)
    lose(lifecycle, name)
    assert lifecycle.num_possible == 1
    assert names_of(lifecycle.ask(1e6)) == ["engine-0.4"]


def test_losses_that_a_draw_caused_do_not_count_against_the_slot() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=1)
    for _ in range(2 * MAX_LOSSES):
        (name,) = waiting(lifecycle, now_s=1e6)
        lose(lifecycle, name, is_fault_of_draw=True)
    lifecycle.require_possible()


def test_a_drained_engine_is_no_loss() -> None:
    lifecycle = Lifecycle(SLOTS[:1], min_engines=1)
    for _ in range(2 * MAX_LOSSES):
        (name,) = waiting(lifecycle, now_s=1e6)
        assert lifecycle.drain(name)
        assert lifecycle.drained(name)
        assert lifecycle.reaped(name)
    lifecycle.require_possible()


class FleetMachine(RuleBasedStateMachine):
    """Events in any order, with transfers that some members fail; a model of its own counts deliveries."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[str, State, State]] = []
        self.lifecycle = Lifecycle(SLOTS, min_engines=0, on_change=self.note)
        self.now_s = 0.0
        self.delivery: Any = None
        self.held: dict[str, int] = {}
        """The version that the open or last transfer of each incarnation left in it."""

    def note(self, incarnation: Incarnation, before: State) -> None:
        self.changes.append((incarnation.name, before, incarnation.state))

    def live(self, *states: State) -> list[str]:
        return names_of(self.lifecycle.in_state(*states))

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 60.0]))
    def ask(self, seconds: float) -> None:
        self.now_s += seconds
        self.lifecycle.ask(self.now_s)

    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        events: dict[State, Callable[[str], bool]] = {
            State.ASKED: self.lifecycle.placed,
            State.STARTING: self.lifecycle.warmed_up,
            State.REHEARSING: self.lifecycle.rehearsed,
            State.CONDEMNED: self.lifecycle.reaped,
            State.DRAINING: self.lifecycle.drained,
            State.READY: self.lifecycle.lend,
            State.PINNED: self.lifecycle.give_back,
        }
        names = self.live(*events)
        if names:
            name = data.draw(st.sampled_from(names))
            assert events[self.lifecycle[name].state](name)

    @rule(data=st.data(), is_drain=st.booleans(), is_fault_of_draw=st.booleans())
    def leave(self, data: st.DataObject, is_drain: bool, is_fault_of_draw: bool) -> None:
        names = self.live(*(s for s in State if s not in ENDED))
        if names:
            name = data.draw(st.sampled_from(names))
            if is_drain:
                self.lifecycle.drain(name)
            else:
                self.lifecycle.lost(name, reason="x", now_s=self.now_s, is_fault_of_draw=is_fault_of_draw)

    @precondition(lambda self: self.delivery is None)
    @rule(is_admission=st.booleans())
    def begin(self, is_admission: bool) -> None:
        version = self.lifecycle.version + (not is_admission)
        self.delivery = self.lifecycle.begin_delivery(version, only_joining=is_admission)

    @precondition(lambda self: self.delivery is not None)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        for name in self.delivery.members:
            state = self.lifecycle[name].state
            if state in (State.WAITING, State.READY, State.DRAINING) and data.draw(st.booleans()):
                self.lifecycle.delivered(self.delivery, name)
                self.held[name] = self.delivery.version
        self.lifecycle.end_delivery(self.delivery)
        self.delivery = None

    @precondition(lambda self: self.delivery is not None)
    @rule()
    def abort(self) -> None:
        for name in self.delivery.members:
            # it may hold a part of the transfer
            self.held.pop(name, None)
        self.lifecycle.abort_delivery(self.delivery)
        self.delivery = None

    @invariant()
    def only_delivered_engines_serve(self) -> None:
        assert all(self.held.get(i.name) == self.lifecycle.version for i in self.lifecycle.serving)

    @invariant()
    def ready_is_the_fleets_version_outside_a_transfer(self) -> None:
        if self.delivery is None:
            assert all(i.version == self.lifecycle.version for i in self.lifecycle.in_state(State.READY))

    @invariant()
    def condemned_leads_to_gone_alone(self) -> None:
        assert all(after == State.GONE for _, before, after in self.changes if before == State.CONDEMNED)
        assert not any(before == State.GONE for _, before, after in self.changes if after != State.GONE)

    @invariant()
    def a_slot_has_one_incarnation(self) -> None:
        alive = self.live(*(s for s in State if s != State.GONE))
        assert len({name.rsplit(".", 1)[0] for name in alive}) == len(alive)


TestFleetMachine = FleetMachine.TestCase
