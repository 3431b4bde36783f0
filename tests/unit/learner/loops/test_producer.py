"""The producer over fakes: failures are replaced, stale groups redrawn, errors raised where groups are awaited."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import DatasetError, EngineError, StopRequestedError
from common.types import Generation, Prompt
from learner.loops.stream import PromptStream, group_seed
from tests.support.clock import run
from tests.support.loop_bench import Bench, Plan, failure


@pytest.mark.parametrize("stage", ["media", "rollout", "reward"])
def test_a_draw_that_fails_is_recorded_and_another_takes_its_place(tmp_path: Path, stage: str) -> None:
    bad = {"clip-1", "clip-4"}
    bench = Bench(
        tmp_path, Plan(groups_per_step=3, fate=lambda p, _: failure(stage, "broken") if p in bad else None)
    )
    bench.run(4)
    assert all(len(batch) == 3 for batch in bench.seen.trained)
    names = {key.split("/")[1] for key in bench.trained_keys}
    assert names == {"clip-0", "clip-2", "clip-3", "clip-5"}
    failed = bench.entries(fate="failed")
    assert {e["draw"].split("/")[1] for e in failed} == bad
    assert {(e["stage"], e["reason"], e["detail"]) for e in failed} == {(stage, "broken", "broken in detail")}
    assert bench.ledger.failures == {f"{stage}/broken": len(failed)}
    assert bench.faults() == ()


def test_every_draw_before_the_cursor_has_one_fate(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(num_records=5, fate=lambda p, _: failure("rollout") if p == "clip-2" else None))
    bench.run(5)
    fates = [e["draw"] for e in bench.entries() if "fate" in e]
    stream = PromptStream(bench.records, seed=1)
    given_out = [stream.next().key for _ in range(bench.stream.cursor)]
    assert sorted(fates) == sorted(given_out)
    assert len(set(fates)) == len(fates)


def test_events_of_a_draw_come_in_their_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(groups_per_step=1))
    bench.run(1)
    (key,) = {e["draw"] for e in bench.entries() if "draw" in e}
    told = [e.get("event") or e["fate"] for e in bench.entries(draw=key)]
    assert told == ["asked", "generated", "scored", "trained"]
    assert bench.entries(event="scored")[0]["mean"] == 0.5


def test_a_corpus_of_which_nothing_can_be_used_is_a_mistake_with_its_reasons(tmp_path: Path) -> None:
    reasons = {"clip-0": "missing"}
    bench = Bench(tmp_path, Plan(num_records=4, fate=lambda p, _: failure("media", reasons.get(p, "undecodable"))))
    with pytest.raises(DatasetError, match=r"media/missing x\d") as caught:
        bench.run(1)
    assert "media/undecodable x" in str(caught.value)
    # every clip had its turn, and few a second one
    failed = [e["draw"].split("/")[1] for e in bench.entries(fate="failed")]
    assert set(failed) == {"clip-0", "clip-1", "clip-2", "clip-3"}
    assert len(failed) == bench.num_asked <= 8
    assert bench.seen.trained == []


def test_a_service_that_dies_within_a_step_does_not_make_the_loop_ask_for_ever(tmp_path: Path) -> None:
    # two of the first three draws succeed, the third and whatever takes its place fails
    bench = Bench(tmp_path, Plan(num_records=4, groups_per_step=3))
    first = PromptStream(bench.records, seed=1).next().record.prompt_id
    bench.plan.fate = lambda p, asked: failure("reward", "service-error") if p == first or asked > 3 else None
    with pytest.raises(DatasetError, match="reward/service-error"):
        bench.run(1)
    assert bench.seen.trained == []


def test_a_corpus_with_one_good_clip_trains_on_it(tmp_path: Path) -> None:
    # orders differ from epoch to epoch: up to twice three failures lie between two groups
    plan = Plan(num_records=4, groups_per_step=1, fate=lambda p, _: None if p == "clip-3" else failure("media"))
    bench = Bench(tmp_path, plan)
    bench.run(8)
    assert bench.trained_keys == [f"{e}/clip-3/0" for e in range(8)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    max_staleness=st.integers(0, 2),
    groups_per_step=st.integers(1, 3),
    lags=st.lists(st.integers(0, 4), min_size=1, max_size=9),
    bad=st.sampled_from(["clip-1", "none"]),
)
def test_however_draws_lag_none_is_too_stale_or_trained_twice(
    tmp_path_factory: pytest.TempPathFactory, max_staleness: int, groups_per_step: int, lags: list[int], bad: str
) -> None:
    bench = Bench(
        tmp_path_factory.mktemp("run"),
        Plan(
            num_records=7,
            groups_per_step=groups_per_step,
            max_staleness=max_staleness,
            max_redraws=2,
            fate=lambda p, _: failure("rollout") if p == bad else None,
            lag=lambda draw: lags[(draw.position + draw.draw) % len(lags)],
        ),
    )
    bench.run(8)
    assert len(bench.seen.recorded) == 8
    for batch, version in zip(bench.seen.trained, bench.seen.train_versions, strict=True):
        assert len(batch) == groups_per_step
        assert all(version - max_staleness <= g.min_policy_version <= version for g in batch)
    assert len(set(bench.trained_keys)) == len(bench.trained_keys) == 8 * groups_per_step
    assert bench.seen.max_untrained <= (max_staleness + 1) * groups_per_step
    assert len({p.seed for p in bench.seen.prompts}) == len(bench.seen.prompts) == bench.num_asked
    assert bench.faults() == ()


def test_with_a_bound_of_one_the_producer_works_ahead(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(num_records=30, max_staleness=1))
    bench.run(6)
    staleness = [
        v - g.min_policy_version
        for b, v in zip(bench.seen.trained, bench.seen.train_versions, strict=True)
        for g in b
    ]
    assert staleness == [0, 0] + [1, 1] * 5
    assert bench.seen.max_untrained == 4
    assert [r.metrics["rollout/staleness/max"] for _, r, _ in bench.seen.recorded] == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_stale_group_is_asked_again_with_another_seed_and_trained_once(tmp_path: Path) -> None:
    lag = {(3, 0): 3, (3, 1): 3}
    bench = Bench(
        tmp_path,
        Plan(num_records=30, max_staleness=1, lag=lambda draw: lag.get((draw.position, draw.draw), 0)),
    )
    bench.run(12)
    asked = [p for p in bench.seen.prompts if p.draw.position == 3]
    keys = [p.draw.key for p in asked]
    assert [key.rsplit("/", 1)[1] for key in keys] == ["0", "1", "2"]
    assert [e["draw"] for e in bench.entries(event="stale")] == keys[:2]
    assert [e["draw"] for e in bench.entries(fate="redrawn")] == keys[:2]
    assert [key for key in bench.trained_keys if key in keys] == keys[2:]
    assert [p.seed for p in asked] == [group_seed(9, p.draw) for p in asked]
    assert len({p.seed for p in asked}) == 3
    assert len({p.draw.record.prompt_id for p in asked}) == 1
    assert bench.faults() == ()


@pytest.mark.parametrize("max_redraws", [0, 2])
def test_a_draw_that_is_always_too_late_fails_as_stale(tmp_path: Path, max_redraws: int) -> None:
    bench = Bench(
        tmp_path,
        Plan(num_records=40, max_staleness=1, max_redraws=max_redraws, lag=lambda draw: 3 * (draw.position == 3)),
    )
    bench.run(15)
    (failed,) = bench.entries(fate="failed")
    assert failed["draw"].endswith(f"/{max_redraws}")
    assert (failed["stage"], failed["reason"]) == ("stale", "stale")
    assert failed["detail"] == f"{max_redraws + 1} draws came too late"
    keys = [p.draw.key for p in bench.seen.prompts if p.draw.position == 3]
    assert len(keys) == max_redraws + 1
    assert [e["draw"] for e in bench.entries(fate="redrawn")] == keys[:-1]
    assert not set(keys) & set(bench.trained_keys)
    assert bench.ledger.failures == {"stale/stale": 1}
    assert bench.faults() == ()


@pytest.mark.parametrize("error", [EngineError("engine-0 died"), RuntimeError("nobody foresaw this")])
def test_an_error_of_a_draw_is_raised_where_groups_are_awaited(tmp_path: Path, error: Exception) -> None:
    bench = Bench(tmp_path, Plan(num_records=9, groups_per_step=3))
    generate = bench.producer.generate

    async def dying(prompt: Prompt) -> object:
        if prompt.draw.position == 4:
            raise error
        return await generate(prompt)

    bench.producer.generate = dying  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(type(error), match=str(error)):
        bench.run(5)
    assert [step for step, _, _ in bench.seen.recorded] == [1]
    assert bench.faults() == ()


def test_the_first_error_is_the_one_that_is_raised(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def dying(prompt: Prompt) -> Generation:
        raise EngineError(f"draw {prompt.draw.position}")

    async def drive() -> None:
        bench.producer.generate = dying
        bench.producer.start(3)
        await bench.producer.batch(1, learner_version=0)

    with pytest.raises(EngineError, match="draw 0"):
        run(drive())


def test_an_interrupt_is_not_forgotten_before_groups_are_awaited(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def drive() -> None:
        bench.producer.start(2)
        bench.producer.interrupt()
        await bench.producer.batch(2, learner_version=0)

    with pytest.raises(StopRequestedError):
        run(drive())


def test_what_is_in_flight_or_buffered_is_outstanding_until_it_is_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(lag=lambda draw: 9 if draw.position in (1, 3) else 0))

    async def drive() -> tuple[list[int], list[int], list[int]]:
        producer = bench.producer
        producer.start(4)
        taken = await producer.batch(1, learner_version=0)
        positions = sorted(draw.position for draw in producer.outstanding())
        await producer.stop()
        return [g.prompt.draw.position for g in taken], positions, [d.position for d in producer.outstanding()]

    assert run(drive()) == ([0], [1, 2, 3], [2])


def test_a_draw_is_outstanding_once_at_every_moment_of_its_way(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def most_at_once() -> int:
        bench.producer.start(1)
        most = 0
        for _ in range(20):
            await asyncio.sleep(0)
            most = max(most, len(bench.producer.outstanding()))
        return most

    assert run(most_at_once()) == 1


def test_draws_that_wait_in_the_stream_are_outstanding(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(max_staleness=2))
    first, second = bench.stream.next(), bench.stream.next()
    bench.stream.redraw(first)
    bench.stream.ask_again([(second.position, second.draw)])
    waiting = [(d.position, d.draw) for d in bench.producer.outstanding()]
    assert waiting == [(0, 1), (1, 0)]


def test_draws_of_a_task_that_failed_stay_outstanding(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(max_staleness=2))
    generate = bench.producer.generate

    async def dying(prompt: Prompt) -> object:
        if prompt.draw.position == 1:
            raise EngineError("engine-0 died")
        return await generate(prompt)

    bench.producer.generate = dying  # pyright: ignore[reportAttributeAccessIssue]

    async def drive() -> list[int]:
        bench.producer.start(3)
        with pytest.raises(EngineError):
            await bench.producer.batch(3, learner_version=0)
        return sorted(draw.position for draw in bench.producer.outstanding())

    assert run(drive()) == [0, 1, 2]


def test_a_draw_that_exhausts_the_corpus_has_its_fate_and_is_not_outstanding(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(num_records=1, groups_per_step=1, fate=lambda p, _: failure("media")))
    with pytest.raises(DatasetError):
        bench.run(1)
    assert bench.producer.outstanding() == []
