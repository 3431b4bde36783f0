"""Engines that start later are rehearsed by the record of the first rehearsal, and no rank takes part."""

import asyncio

import pytest

from tests.support.clock import run
from tests.support.fakes import FakeEngine, plan_of
from tests.support.publisher_bench import BOTH, LAYERS, Bench


def restarted(bench: Bench, index: int = 1) -> FakeEngine:
    """The next incarnation of an engine that was killed, in the middle of a run."""
    run(bench.publisher.start())
    bench.publish()
    bench.fleet.lost(bench.engines[index], reason="killed")
    engine = bench.new_engine(index)
    bench.fleet.join(engine)
    bench.shared.log.clear()
    return engine


def rank_calls(bench: Bench) -> list[str]:
    """What the ranks were asked to do."""
    return [phase for who, phase, _ in bench.shared.log if who == "ranks"]


def test_an_engine_that_follows_the_record_is_verified_without_the_ranks() -> None:
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    run(bench.publisher.rehearse_alone())
    assert rank_calls(bench) == []
    assert bench.fleet.unverified() == []
    assert bench.fleet.serving == ["engine-0"]
    run(bench.publisher.admit())
    # no more than a publish does
    assert rank_calls(bench) == ["gather"] * len(bench.shared.plan.buckets) + ["score"]
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    assert (engine.version, engine.weights) == (1, bench.senders.weights)
    assert bench.phases("engine-0") == []


def test_a_verified_engine_is_a_member_of_the_next_publish() -> None:
    bench = Bench(num_engines=2)
    restarted(bench)
    run(bench.publisher.rehearse_alone())
    assert set(bench.publish().canary) == {"engine-0", "engine-1"}


@pytest.mark.parametrize("culprit", range(len(BOTH)))
def test_an_engine_that_ignores_a_layer_is_rejected_with_its_name(culprit: int) -> None:
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    engine.ignored = set(BOTH[culprit])
    bench.admit()
    ((_, _), (lost, reason)) = bench.fleet.losses
    assert lost == "engine-1"
    assert reason.startswith("rehearsal on engine-1 at version 1")
    assert reason.endswith(f"does not follow {', '.join(BOTH[culprit])}")
    assert rank_calls(bench) == []
    assert bench.fleet.serving == ["engine-0"]


def test_several_layers_that_an_engine_ignores_are_suspects() -> None:
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    engine.ignored = {name for layer in BOTH for name in layer}
    bench.admit()
    assert f"({len(BOTH)} layers" in bench.fleet.losses[1][1]


@pytest.mark.parametrize("phase", ["pause", "start", "update", "finish", "resume", "generate"])
@pytest.mark.parametrize("how", ["fails_on", "hangs_on"])
def test_an_engine_that_fails_in_its_rehearsal_is_lost_and_the_others_go_on(phase: str, how: str) -> None:
    bench = Bench(num_engines=3)
    good = restarted(bench)
    bench.fleet.lost(bench.engines[2], reason="killed")
    bad = bench.new_engine(2)
    setattr(bad, how, phase)
    bench.fleet.join(bad)
    bench.admit()
    assert [engine for engine, _ in bench.fleet.losses[2:]] == ["engine-2"]
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    assert good.weights == bench.senders.weights


@pytest.mark.parametrize("is_sound", [True, False])
def test_an_engine_from_another_checkpoint_is_rehearsed_with_the_ranks(is_sound: bool) -> None:
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    engine.checkpoint = {name: value * 1.5 for name, value in engine.checkpoint.items()}
    engine.ignored = set() if is_sound else {"layer-2.weight"}
    before = dict(bench.senders.weights)
    run(bench.publisher.rehearse_alone())
    assert bench.fleet.unverified() == [engine]
    assert rank_calls(bench) == []
    run(bench.publisher.admit())
    assert "perturb" in rank_calls(bench)
    assert bench.senders.weights == before
    assert bench.fleet.serving == (["engine-0", "engine-1"] if is_sound else ["engine-0"])


def test_an_engine_that_starts_after_the_rehearsal_does_not_hold_up_the_ranks() -> None:
    bench = Bench(num_engines=3)
    restarted(bench)
    run(bench.publisher.rehearse_alone())
    bench.fleet.lost(bench.engines[2], reason="killed")
    bench.fleet.join(bench.new_engine(2))
    run(bench.publisher.admit())
    assert "perturb" not in rank_calls(bench)
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    bench.admit()
    assert "perturb" not in rank_calls(bench)
    assert bench.fleet.serving == ["engine-0", "engine-1", "engine-2"]


@pytest.mark.parametrize(("after", "is_passed"), [(3, True), (2, True), (1, False), (0, False)])
def test_tokens_before_a_deviation_are_compared_if_they_are_half_or_more(after: int, is_passed: bool) -> None:
    # three tokens a completion
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    engine.deviates_after = after
    run(bench.publisher.rehearse_alone())
    if is_passed:
        assert bench.fleet.losses[1:] == []
    else:
        assert "at least half of the recorded tokens" in bench.fleet.losses[1][1]


def test_a_layer_is_found_in_the_tokens_before_a_deviation() -> None:
    bench = Bench(num_engines=2)
    engine = restarted(bench)
    engine.deviates_after, engine.ignored = 2, set(BOTH[3])
    run(bench.publisher.rehearse_alone())
    assert bench.fleet.losses[1][1].endswith(", ".join(BOTH[3]))


@pytest.mark.parametrize("culprit", [3, 4])
def test_every_recorded_noise_is_tried(culprit: int) -> None:
    bench = Bench(dtype="bfloat16", num_engines=2)
    weak = set(BOTH[3])
    bench.senders.weights = {n: v * (0.0001 if n in weak else 1.0) for n, v in bench.senders.weights.items()}
    bench.checkpoint = dict(bench.senders.weights)
    for engine in bench.engines:
        engine.weights, engine.rounding = dict(bench.checkpoint), 0.01
    engine = restarted(bench)
    engine.rounding = 0.01
    engine.ignored = set(BOTH[culprit])
    bench.admit()
    # a layer whose effect is lost in rounding is not claimed
    assert len(bench.fleet.losses) == (1 if culprit == 3 else 2)
    assert bench.phases("engine-1").count("start") >= (4 if culprit == 3 else 1)


def test_a_rehearsal_alone_runs_beside_a_publish() -> None:
    bench = Bench(plan=plan_of(LAYERS), num_engines=2)
    engine = restarted(bench)
    bench.senders.step()

    async def both() -> None:
        report, _ = await asyncio.gather(bench.publisher.publish(), bench.publisher.rehearse_alone())
        assert set(report.canary) == {"engine-0"}

    run(both())
    assert bench.fleet.losses[1:] == []
    assert bench.fleet.serving == ["engine-0"]
    run(bench.publisher.admit())
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    assert (engine.version, engine.weights) == (2, bench.senders.weights)
