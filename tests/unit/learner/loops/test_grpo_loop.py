"""The loop over fakes: what fails is replaced and recorded, what is there is trained once."""

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import EngineError, NonFiniteError, PublishError, StopRequestedError
from common.types import Failure, Generation, MediaRef, Prompt, Record, Score
from learner.checkpoints.checkpoint import START
from learner.ledger import live_entries
from learner.loops.equal_rewards import MIN_STEPS, EqualRewards
from learner.loops.grpo_loop import group_metrics
from learner.loops.stream import PromptStream, group_seed
from tests.support.builders import make_completion, make_draw, make_generation, make_group
from tests.support.loop_bench import Bench, Plan, failure


def test_a_step_trains_then_publishes_then_records(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    assert bench.seen.log == ["train", "publish", "record"] * 2
    assert [(s, p and p.version) for s, _, p in bench.seen.recorded] == [(1, 1), (2, 2)]


def test_every_group_trains_once_and_in_the_order_of_the_stream(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(6)
    stream = PromptStream(bench.records, seed=1)
    expected = [stream.next().key for _ in range(12)]
    assert bench.trained_keys == expected
    assert len(set(expected)) == 12
    assert [e["draw"] for e in bench.entries(fate="trained")] == expected
    assert [e["step"] for e in bench.entries(fate="trained")] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [(e["step"], e["outstanding"]) for e in bench.entries(event="stepped")] == [(s, []) for s in range(1, 7)]


def test_a_group_carries_its_draw_seed_and_scores(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(1)
    for group in bench.seen.trained[0]:
        assert group.prompt.seed == group_seed(9, group.prompt.draw)
        assert group.prompt.num_prompt_tokens == 3
        assert [s.score.total for s in group.samples] == [0.0, 1.0]
        assert [len(s.completion.token_ids) for s in group.samples] == [1, 2]


def test_on_policy_nothing_is_in_flight_while_a_step_trains(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(num_records=20, groups_per_step=4))
    during: list[tuple[int, int]] = []
    bench.on_train = lambda step: during.append((bench.in_flight, len(bench.producer.outstanding())))
    bench.run(5)
    assert during == [(0, 0)] * 5
    assert (bench.seen.max_in_flight, bench.seen.max_untrained, bench.num_asked) == (4, 4, 20)
    assert bench.faults() == ()


@pytest.mark.parametrize("bad", ["clip-2", "none"])
def test_on_policy_every_group_was_made_by_the_version_that_trains_it(tmp_path: Path, bad: str) -> None:
    bench = Bench(
        tmp_path,
        Plan(
            num_records=5,
            groups_per_step=3,
            fate=lambda p, _: failure("rollout") if p == bad else None,
            lag=lambda draw: draw.position % 2,
        ),
    )
    bench.run(6)
    assert bench.seen.train_versions == [0, 1, 2, 3, 4, 5]
    for batch, version in zip(bench.seen.trained, bench.seen.train_versions, strict=True):
        assert [g.min_policy_version for g in batch] == [version] * 3
    assert [r.metrics["rollout/staleness/max"] for _, r, _ in bench.seen.recorded] == [0.0] * 6
    assert bench.faults() == ()


def test_what_will_be_asked_next_is_prefetched_while_a_step_trains(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(3)
    coming = PromptStream(bench.records, seed=1, cursor=2)
    assert [r for records in bench.seen.prefetched for r in records] == [coming.next().record for _ in range(6)]


def test_metrics_and_seconds_are_those_of_the_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    for _, report, _ in bench.seen.recorded:
        assert set(report.seconds) == {"rollout", "learn", "publish"}
        draw_seconds = {k for k in report.metrics if k.startswith("draw_seconds/")}
        assert draw_seconds == {"draw_seconds/media", "draw_seconds/generate", "draw_seconds/reward"}
        assert report.metrics["learner/loss"] == 0.5
    assert bench.seen.recorded[0][1].seconds is not bench.seen.recorded[1][1].seconds


def test_checkpoints_come_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(steps_per_checkpoint=2))
    bench.run(5)
    assert [s.step for s in bench.seen.kept] == [2, 4, 5]
    assert bench.seen.evaluated == [2, 4, 5]
    assert [(s.policy_version, s.cursor, s.outstanding) for s in bench.seen.kept] == [
        (2, 4, ()),
        (4, 8, ()),
        (5, 10, ()),
    ]
    whole = bench.path.read_bytes()
    for state in bench.seen.kept:
        last = whole[: state.ledger_bytes].splitlines()[-1]
        assert b'"stepped"' in last
        assert f'"step": {state.step},'.encode() in last


def test_a_run_that_has_taken_its_steps_takes_no_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    again = Bench(tmp_path, state=bench.loop.state)
    again.run(2)
    assert again.num_asked == 0
    assert again.seen.kept == []


def test_nothing_of_a_step_is_recorded_when_its_publish_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish_error_at = 2
    with pytest.raises(PublishError):
        bench.run(3)
    assert [step for step, _, _ in bench.seen.recorded] == [1]
    assert [e["step"] for e in bench.entries(fate="trained")] == [1, 1]
    assert bench.loop.state.step == 1
    # what became of the draws on their way is there to be looked at
    assert len(bench.entries(event="scored")) == 4


def test_a_stop_leaves_finished_steps_recorded_and_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(max_staleness=1))
    bench.on_train = lambda batch: bench.producer.interrupt() if batch == 3 else None
    with pytest.raises(StopRequestedError):
        bench.run(9)
    # the step that was training is finished first
    assert [step for step, _, _ in bench.seen.recorded] == [1, 2, 3]
    assert bench.loop.state.step == 3
    assert bench.producer.outstanding() == bench.producer.buffer.draws(), "nothing is in flight any more"
    assert bench.faults() == ()


def test_a_stop_while_groups_are_awaited_ends_the_wait(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(lag=lambda draw: 9 if draw.position >= 4 else 0))
    ask = bench.producer.prepare

    async def prepare(record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        if bench.num_asked == 5:
            bench.producer.interrupt()
        return await ask(record, lost=lost)

    bench.producer.prepare = prepare
    with pytest.raises(StopRequestedError):
        bench.run(9)
    assert [step for step, _, _ in bench.seen.recorded] == [1, 2]
    assert bench.faults() == ()


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path, max_staleness: int) -> None:
    plan = Plan(num_records=7, groups_per_step=2, max_staleness=max_staleness)
    first = Bench(tmp_path, plan)
    first.on_train = lambda batch: first.producer.interrupt() if batch == 2 else None
    with pytest.raises(StopRequestedError):
        first.run(6)
    state = first.loop.state
    assert len(state.outstanding) == 2 * max_staleness
    second = Bench(tmp_path, plan, state=state)
    second.run(6)
    keys = [*first.trained_keys, *second.trained_keys]
    stream = PromptStream(first.records, seed=1)
    assert keys == [stream.next().key for _ in range(12)]
    assert second.faults() == ()
    # what was on its way is asked again with the same seed
    seeds = {p.draw.key: p.seed for p in first.seen.prompts}
    again = [p for p in second.seen.prompts if p.draw.key in seeds]
    assert len(again) >= len(state.outstanding)
    assert all(p.seed == seeds[p.draw.key] for p in again)


def fates_of(bench: Bench) -> dict[int, list[str]]:
    """The fates of every position of the stream, over all its draws, in the order of the ledger."""
    fates: dict[int, list[str]] = {}
    positions = {e["draw"].rsplit("/", 1)[0]: e["position"] for e in bench.entries(event="asked")}
    for entry in live_entries(bench.path):
        if "fate" in entry:
            fates.setdefault(positions[entry["draw"].rsplit("/", 1)[0]], []).append(entry["fate"])
    return fates


@pytest.mark.parametrize("last_steps", [(2, 3), (3, 4, 5, 6), (3, 4, 9)])
@pytest.mark.parametrize("late", [set[int](), {5}, {2, 3, 5, 6, 8}])
def test_no_draw_is_lost_where_a_resumed_run_has_fewer_steps_left(
    tmp_path: Path, last_steps: tuple[int, ...], late: set[int]
) -> None:
    plan = Plan(
        num_records=50,
        groups_per_step=2,
        max_staleness=2,
        lag=lambda draw: 4 * (draw.position in late and draw.draw == 0),
    )
    first = Bench(tmp_path, plan)
    first.on_train = lambda batch: first.producer.interrupt() if batch == last_steps[0] else None
    with pytest.raises(StopRequestedError):
        first.run(20)
    state, bench = first.loop.state, first
    assert len(state.outstanding) == 4
    for last_step in last_steps[1:]:
        bench = Bench(tmp_path, plan, state=state)
        bench.run(last_step)
        state = bench.loop.state
        assert bench.faults() == ()
        # what a shorter run did not come to is asked by the next one
        open_positions = set(range(state.cursor)) - {
            p for p, fates in fates_of(bench).items() if fates[-1] == "trained"
        }
        assert open_positions == {position for position, _ in state.outstanding}


def test_a_redraw_that_waits_in_the_stream_at_the_end_is_asked_when_the_run_goes_on(tmp_path: Path) -> None:
    plan = Plan(num_records=30, max_staleness=2, lag=lambda d: 9 * (d.position == 1 and d.draw == 0))
    # more draws than one step needs, as an attempt with more steps left them
    state = replace(START, cursor=4, outstanding=((0, 0), (1, 0), (2, 0), (3, 0)))
    bench = Bench(tmp_path, plan, state=state)
    bench.stream.redraw(bench.stream.next())
    bench.run(1)
    # first, as it came back, then the others in their order
    assert [(p, d) for p, d in bench.loop.state.outstanding] == [(3, 0), (0, 1)]
    again = Bench(tmp_path, plan, state=bench.loop.state)
    again.run(2)
    assert [(g.prompt.draw.position, g.prompt.draw.draw) for g in again.seen.trained[0]] == [(0, 1), (3, 0)]


@pytest.mark.parametrize("max_staleness", [1, 2])
def test_a_checkpoint_after_an_engine_died_has_every_draw_of_it(tmp_path: Path, max_staleness: int) -> None:
    plan = Plan(num_records=30, max_staleness=max_staleness, steps_per_checkpoint=1)
    bench = Bench(tmp_path, plan)
    generate = bench.producer.generate

    async def dying(prompt: Prompt) -> Generation | Failure:
        if prompt.draw.position == 5:
            raise EngineError("engine-0 died")
        return await generate(prompt)

    bench.producer.generate = dying
    with pytest.raises(EngineError):
        bench.run(9)
    state = bench.seen.kept[-1]
    again = Bench(tmp_path, plan, state=state)
    again.run(9)
    assert again.faults() == ()
    assert all(fates == ["trained"] for fates in fates_of(again).values())
    assert sorted(fates_of(again)) == list(range(18))


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_steps_behind_the_checkpoint_are_void_and_trained_anew(tmp_path: Path, max_staleness: int) -> None:
    plan = Plan(num_records=5, groups_per_step=2, max_staleness=max_staleness, steps_per_checkpoint=2)
    first = Bench(tmp_path, plan)
    first.publish_error_at = 6
    with pytest.raises(PublishError):
        first.run(9)
    assert len(first.seen.recorded) == 5
    state = first.seen.kept[-1]
    assert state.step == 4
    second = Bench(tmp_path, plan, state=state)
    second.run(9)
    assert second.ledger.lineage == 1
    assert second.faults() == ()
    live = [(e["step"], e["draw"]) for e in live_entries(second.path) if e.get("fate") == "trained"]
    assert [step for step, _ in live] == [s for s in range(1, 10) for _ in range(2)]
    assert [draw for _, draw in live] == first.trained_keys[:8] + second.trained_keys
    assert len({draw for _, draw in live}) == 18


def test_metrics_of_a_batch_by_hand() -> None:
    groups = [make_group([1.0, 0.0], lengths=[2, 4]), make_group([0.5, 0.5], lengths=[1, 1], draw=make_draw("b"))]
    got = group_metrics(groups, learner_version=3)
    assert got["reward/total/mean"] == 0.5
    assert (got["reward/total/min"], got["reward/total/max"]) == (0.0, 1.0)
    assert got["reward/accuracy/mean"] == 0.5
    # 1, 0, 0.5, 0.5
    assert got["reward/accuracy/std"] == pytest.approx(0.125**0.5)
    assert got["reward/equal_groups_fraction"] == 0.5
    assert (got["rollout/length/mean"], got["rollout/length/max"]) == (2.0, 4.0)
    assert got["rollout/staleness/mean"] == 3.0
    assert got["rollout/truncated_fraction"] == 0.0


def test_a_reward_that_was_left_out_of_a_group_has_its_mean_over_the_others() -> None:
    first, second = make_group([1.0, 0.0]), make_group([0.5, 0.5], draw=make_draw("b"))
    bare = tuple(replace(s, score=Score(total=0.0, breakdown={"form": 1.0})) for s in second.samples)
    got = group_metrics([replace(second, samples=bare), first], learner_version=0)
    assert (got["reward/accuracy/mean"], got["reward/form/mean"]) == (0.5, 1.0)


def test_how_each_reward_did_stands_with_the_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(num_records=5, groups_per_step=2, max_staleness=0, steps_per_checkpoint=2))
    bench.reward_metrics = {"reward/mine/latency_s": 0.5}
    bench.run(1)
    _, report, _ = bench.seen.recorded[0]
    assert report.metrics["reward/mine/latency_s"] == 0.5


def test_the_oldest_token_sets_a_generations_version() -> None:
    generation = make_generation(2, version=4)
    assert generation.min_policy_version == 4
    late = Generation(completions=(make_completion([1], version=5),), submission_version=4, engine="e")
    assert late.min_policy_version == 4
    early = Generation(completions=(make_completion([1], version=2),), submission_version=4, engine="e")
    assert early.min_policy_version == 2


def test_a_step_that_is_not_finite_is_left_out_and_its_groups_are_filtered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.not_finite = {2, 4}
    bench.run(5)
    assert bench.seen.log == ["train", "publish", "record", "train", "record"] * 2 + ["train", "publish", "record"]
    assert [published.version if published else None for _, _, published in bench.seen.recorded] == [
        1,
        None,
        2,
        None,
        3,
    ]
    assert bench.seen.train_versions == [0, 1, 1, 2, 2]
    assert [e["step"] for e in bench.entries(fate="filtered", reason="non-finite")] == [2, 2, 4, 4]
    assert [e["step"] for e in bench.entries(fate="trained")] == [1, 1, 3, 3, 5, 5]
    state = bench.seen.kept[-1]
    assert (state.step, state.policy_version, state.cursor) == (5, 3, 10)
    assert bench.faults() == ()


def test_too_many_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Plan(max_non_finite_steps=1))
    bench.not_finite = {2, 3}
    with pytest.raises(NonFiniteError, match=r"at step 3, 2 times in a row.*step-3"):
        bench.run(9)
    # the last one is in the records, too
    assert [step for step, _, _ in bench.seen.recorded] == [1, 2, 3]
    assert (bench.loop.state.step, bench.version) == (3, 1)
    assert bench.entries(fate="failed") == []
    assert bench.faults() == ()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of equal rewards."""
    return [r.getMessage() for r in caplog.records if r.name == "learner.loops.equal_rewards"]


def test_rewards_that_stay_equal_are_said_once_with_a_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # on policy, version 3 makes the groups of step 4
    bench = Bench(tmp_path, Plan(num_records=30, are_equal=lambda version: version >= 3))
    bench.reward_metrics = {"reward/accuracy/latency_s": 0.5}
    bench.run(12)
    assert warnings_of(caplog) == []
    bench = Bench(tmp_path, bench.plan, state=bench.loop.state)
    bench.run(45)
    (said,) = warnings_of(caplog)
    # an attempt counts its own steps
    assert "since step 13 (mean total 0.20, accuracy 0.20)" in said
    assert "step-22," in said
    for remedy in ("sft.steps", "rollout.sampling.temperature", "rollout.group_size"):
        assert remedy in said


def test_steps_that_are_equal_now_and_then_are_not_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, Plan(num_records=30, are_equal=lambda version: version % MIN_STEPS != 0))
    bench.run(5 * MIN_STEPS)
    assert [r.metrics["reward/equal_groups_fraction"] for _, r, _ in bench.seen.recorded].count(1.0) == 45
    assert warnings_of(caplog) == []


def test_one_group_of_many_whose_rewards_differ_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    watch = EqualRewards()
    for step in range(1, 5 * MIN_STEPS):
        watch.note(step, {"reward/equal_groups_fraction": 15 / 16}, batch=Path("batch"))
    assert warnings_of(caplog) == []
