"""The queue in front of vLLM: in order, never above the limit, and probes past it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.admission import CALM_STEPS, Admission
from rollout.engine_stats import Step
from tests.support.clock import run

LIMIT = 8


def step(*, num_running: int = 0, num_preempted: int = 0, kv_use: float = 0.0) -> Step:
    return Step(num_running=num_running, num_waiting=0, kv_use=kv_use, num_preempted=num_preempted)


class Vllm:
    """Sequences in a vLLM, and requests that enter it through its queue."""

    def __init__(self) -> None:
        self.present: dict[int, int] = {}
        """Sequences by request, from the submission to the end."""
        self.order: list[int] = []
        """Requests in the order of their admission."""
        self.admission = Admission(max_sequences=LIMIT, min_sequences=2, count=self.count)
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.entering: dict[int, int] = {}

    def count(self) -> int:
        return sum(self.present.values())

    def request(self, num_sequences: int) -> None:
        name = len(self.tasks)
        self.tasks[name] = asyncio.create_task(self._request(name, num_sequences))

    async def _request(self, name: int, num_sequences: int) -> None:
        with self.admission.queued(num_sequences) as admitted:
            await admitted
            self.order.append(name)
            self.entering[name] = num_sequences
            try:
                others = self.count() + sum(self.entering.values()) - num_sequences
                assert others == 0 or others + num_sequences <= LIMIT
                # a submission takes some turns of the loop
                await asyncio.sleep(1)
                self.present[name] = num_sequences
            finally:
                del self.entering[name]

    def end(self, name: int) -> None:
        self.present.pop(name)
        self.admission.step(step())


async def settled() -> None:
    await asyncio.sleep(5)


def work(test: Callable[[Vllm], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def with_loop() -> None:
        async def main() -> None:
            await test(Vllm())

        run(main())

    with_loop.__name__ = test.__name__
    return with_loop


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(1, LIMIT + 4)),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("preempt"), st.integers(0, LIMIT)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    max_size=40,
)


async def act(vllm: Vllm, action: str, value: int) -> None:
    if action == "request":
        vllm.request(value)
    elif action == "cancel" and vllm.tasks:
        vllm.tasks[value % len(vllm.tasks)].cancel()
    elif action == "end" and vllm.present:
        vllm.end(list(vllm.present)[value % len(vllm.present)])
    elif action == "preempt":
        vllm.admission.step(step(num_running=value, num_preempted=1))
    elif action == "settle":
        await settled()
    # sometimes the actions of one turn of the loop meet
    if value % 2:
        await asyncio.sleep(0)


@given(actions=ACTIONS)
def test_requests_enter_in_order_and_never_above_the_limit(actions: list[tuple[str, int]]) -> None:
    async def main() -> None:
        vllm = Vllm()
        for action, value in actions:
            await act(vllm, action, value)
        # from here on nothing is cancelled, and everything ends
        while True:
            await settled()
            if not vllm.present:
                break
            vllm.end(min(vllm.present))
        for name, task in vllm.tasks.items():
            assert task.done(), f"request {name} was forgotten"
            # an assertion of the request itself
            assert task.cancelled() or task.exception() is None
        assert vllm.order == sorted(vllm.order)
        assert vllm.admission.num_waiting == 0
        # nothing stays reserved: the whole limit is free again
        vllm.admission.limit = LIMIT
        vllm.request(1)
        await settled()
        vllm.request(LIMIT - 1)
        await settled()
        assert vllm.count() == LIMIT

    run(main())


@work
async def test_sequences_that_are_being_submitted_count(vllm: Vllm) -> None:
    for _ in range(3):
        vllm.request(4)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (vllm.order, vllm.count()) == ([0, 1], 0)
    assert vllm.admission.num_waiting == 4


@work
async def test_a_small_request_does_not_overtake_a_large_one(vllm: Vllm) -> None:
    for num_sequences in (5, 4, 1):
        vllm.request(num_sequences)
    await settled()
    assert vllm.order == [0]
    vllm.end(0)
    await settled()
    assert vllm.order == [0, 1, 2]


@work
async def test_a_group_above_the_limit_is_served_alone(vllm: Vllm) -> None:
    for num_sequences in (1, LIMIT + 1, 1):
        vllm.request(num_sequences)
    await settled()
    assert vllm.order == [0]
    vllm.end(0)
    await settled()
    assert vllm.order == [0, 1]
    vllm.end(1)
    await settled()
    assert vllm.order == [0, 1, 2]


@work
async def test_a_cancelled_request_makes_room_for_those_behind_it(vllm: Vllm) -> None:
    for num_sequences in (5, 4, 3):
        vllm.request(num_sequences)
    await settled()
    vllm.tasks[1].cancel()
    await settled()
    assert vllm.order == [0, 2]


@pytest.mark.parametrize("is_cancelled_first", [True, False])
def test_a_request_that_is_cancelled_at_its_admission_leaves_nothing_behind(is_cancelled_first: bool) -> None:
    async def main() -> None:
        vllm = Vllm()
        for num_sequences in (LIMIT, 3):
            vllm.request(num_sequences)
        await settled()
        # in one turn of the loop
        if is_cancelled_first:
            vllm.tasks[1].cancel()
        vllm.end(0)
        vllm.tasks[1].cancel()
        await settled()
        assert vllm.tasks[1].cancelled()
        vllm.request(1)
        await settled()
        vllm.request(LIMIT - 1)
        await settled()
        assert vllm.order == [0, 2, 3]

    run(main())


@work
async def test_each_step_of_vllm_wakes_the_queue(vllm: Vllm) -> None:
    vllm.request(LIMIT)
    vllm.request(2)
    await settled()
    # two sequences of the group have ended
    vllm.present[0] -= 2
    await settled()
    assert vllm.order == [0]
    vllm.admission.step(step())
    await settled()
    assert vllm.order == [0, 1]


@pytest.mark.parametrize(("num_running", "limit"), [(7, 6), (4, 3), (2, 2), (0, 2), (20, LIMIT)])
def test_a_preemption_lowers_the_limit_below_what_runs_but_not_below_a_group(num_running: int, limit: int) -> None:
    admission = Vllm().admission
    admission.step(step(num_running=num_running, num_preempted=1))
    assert admission.limit == limit


def test_calm_steps_raise_a_lowered_limit_slowly_up_to_its_maximum() -> None:
    admission = Vllm().admission
    admission.step(step(num_running=LIMIT - 1, num_preempted=2))
    for _ in range(CALM_STEPS * 10):
        admission.step(step(kv_use=0.95))
    assert admission.limit == LIMIT - 2
    for _ in range(CALM_STEPS - 1):
        admission.step(step(kv_use=0.5))
    assert admission.limit == LIMIT - 2
    admission.step(step(kv_use=0.5))
    assert admission.limit == LIMIT - 1
    for _ in range(CALM_STEPS * 10):
        admission.step(step(kv_use=0.5))
    assert admission.limit == LIMIT


def test_an_engine_of_few_sequences_still_admits_one() -> None:
    assert Admission(max_sequences=-1, min_sequences=8, count=lambda: 0).limit == 1
