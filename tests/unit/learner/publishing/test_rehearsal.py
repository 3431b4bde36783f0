"""Rehearsals of ranks and engines of a few numbers: what an engine does not follow is found and named."""

import asyncio
import math
from typing import Any

import pytest

from common.errors import LearnerError
from tests.support.clock import run
from tests.support.fakes import plan_of
from tests.support.publisher_bench import BOTH, LAYERS, TOWERS, Bench, complaint


@pytest.mark.parametrize("phase", ["perturb", "restore"])
def test_ranks_that_hang_in_a_rehearsal_are_rebuilt_like_dead_ones(phase: str) -> None:
    bench = Bench()
    bench.senders.hangs_on = phase

    async def start() -> None:
        # longer than the publisher's own deadline: without one, this would pass instead
        async with asyncio.timeout(3600):
            await bench.publisher.start()

    with pytest.raises(LearnerError, match=f"{phase} on ranks must end within"):
        run(start())


def test_an_engine_that_fails_its_rehearsal_serves_nothing() -> None:
    bench = Bench()
    bench.engine.ignored.add("layer-2.weight")
    assert complaint(bench, "start").proof == "rehearsal"
    assert bench.fleet.serving == []


def test_a_rehearsal_ends_with_the_true_weights() -> None:
    bench = Bench(num_engines=2)
    before = dict(bench.senders.weights)
    at_rest = run(bench.publisher.start())
    assert bench.senders.weights == before
    assert all(engine.weights == before for engine in bench.engines)
    assert bench.publisher.num_rehearsals == 2
    assert bench.publisher.version == 0
    assert set(at_rest) == {"engine-0", "engine-1"}


def test_a_rehearsal_moves_every_published_tensor() -> None:
    bench = Bench()
    run(bench.publisher.start())
    everything, *one_by_one = bench.senders.perturbed
    assert everything is None
    # each layer's noise is taken back once, and mixed in again
    assert one_by_one == [tuple(layer) for layer in BOTH]


def test_a_rehearsal_can_be_left_out() -> None:
    bench = Bench(rehearsal=False)
    run(bench.publisher.start())
    assert bench.senders.perturbed == []
    assert bench.publisher.num_rehearsals == 0


@pytest.mark.parametrize("culprit", range(len(BOTH)))
@pytest.mark.parametrize("layers_per_bucket", [1, 3])
def test_a_layer_that_the_engine_ignores_is_found_and_named(culprit: int, layers_per_bucket: int) -> None:
    bench = Bench(plan=plan_of(BOTH, layers_per_bucket=layers_per_bucket))
    bench.engine.ignored = set(BOTH[culprit])
    before = dict(bench.senders.weights)
    error = complaint(bench, "start")
    assert (error.proof, error.engine) == ("rehearsal", "engine-0")
    assert all(name in error.subject for name in BOTH[culprit])
    assert not any(name in error.subject for layer in BOTH for name in layer if layer is not BOTH[culprit])
    # the ranks hold the true weights again
    assert bench.senders.weights == before


def test_several_towers_that_only_media_can_see_are_looked_for_among_the_towers() -> None:
    bench = Bench()
    bench.engine.ignored = {name for layer in TOWERS for name in layer}
    subject = complaint(bench, "start").subject
    assert "tower" in subject
    assert "layer" not in subject
    halves = bench.senders.perturbed[1 + len(BOTH) :]
    assert halves
    assert all(name.startswith("tower") for half in halves for name in half or ("everything",))


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_half_an_ignored_layer_names_the_layer(part: str) -> None:
    bench = Bench()
    bench.engine.ignored = {f"layer-4.{part}"}
    assert "layer-4.weight" in complaint(bench, "start").subject


def test_one_ignored_layer_of_one_is_found() -> None:
    bench = Bench(plan=plan_of(LAYERS[:1]))
    bench.engine.ignored = set(LAYERS[0])
    assert "layer-0.weight" in complaint(bench, "start").subject


def test_a_rehearsal_with_nan_does_not_pass() -> None:
    # an engine that computes from uninitialised memory, but only with what it has received anew
    bench = Bench()
    bench.engine.noise_once_moved = math.nan
    error = complaint(bench, "start")
    assert (error.proof, error.engine) == ("rehearsal", "engine-0")


@pytest.mark.parametrize("culprit", ["layer-0", "layer-4", "tower-1"])
def test_a_layer_that_makes_the_engine_compute_nan_is_named(culprit: str) -> None:
    bench = Bench()
    bench.engine.nan_once_moved = {f"{culprit}.weight"}
    subject = complaint(bench, "start").subject
    assert f"{culprit}.weight" in subject
    assert not any(layer[0] in subject for layer in BOTH if layer[0] != f"{culprit}.weight")


def test_the_ranks_take_the_noise_back_when_a_rehearsal_breaks() -> None:
    bench = Bench()
    before = dict(bench.senders.weights)
    bench.engine.lost = {"layer-1.weight"}
    assert complaint(bench, "start").proof == "receipt"
    assert bench.senders.weights == before


def test_each_rehearsal_moves_the_weights_differently() -> None:
    bench = Bench()
    run(bench.publisher.start())
    run(bench.publisher.start())
    nonces = [entry[2] for entry in bench.shared.log if entry[1] == "perturb"]
    once = 1 + len(BOTH)
    # and between them the noise of rounding
    assert nonces == ["1"] * once + ["2"] + ["3"] * once + ["4"]


@pytest.mark.parametrize("culprit", range(len(BOTH)))
def test_a_layer_too_weak_for_any_one_token_is_found_in_all_of_them(culprit: int) -> None:
    bench = Bench(dtype="bfloat16")
    bench.senders.weights = {
        n: v * (0.004 if n in BOTH[culprit] else 1.0) for n, v in bench.senders.weights.items()
    }
    bench.engine.weights = dict(bench.senders.weights)
    bench.engine.rounding = 0.01
    bench.engine.ignored = set(BOTH[culprit])
    error = complaint(bench, "start")
    assert (error.proof, error.subject) == ("rehearsal", ", ".join(BOTH[culprit]))
    assert "log-probabilities must agree within" in str(error)


def test_a_layer_lost_in_rounding_is_not_claimed() -> None:
    bench = Bench(dtype="bfloat16")
    weak = BOTH[3]
    bench.senders.weights = {n: v * (1e-5 if n in weak else 1.0) for n, v in bench.senders.weights.items()}
    bench.engine.weights = dict(bench.senders.weights)
    bench.engine.rounding = 0.01
    run(bench.publisher.start())
    assert bench.publisher.not_exercised == (tuple(weak),)
    # tried with other noises before it was given up
    assert bench.senders.perturbed.count(None) == 3


def test_a_layer_that_changes_nothing_is_not_claimed_and_not_tried_again() -> None:
    bench = Bench()
    dead = BOTH[4]
    bench.senders.weights |= dict.fromkeys(dead, 0.0)
    bench.engine.weights = dict(bench.senders.weights)
    run(bench.publisher.start())
    assert bench.publisher.not_exercised == (tuple(dead),)
    assert bench.senders.perturbed.count(None) == 1


def test_what_every_engine_follows_is_claimed() -> None:
    bench = Bench(num_engines=3)
    run(bench.publisher.start())
    assert bench.publisher.not_exercised == ()
    assert bench.publisher.num_rehearsals == 3


@pytest.mark.parametrize("culprits", [{1}, {0, 2}])
def test_engines_that_do_not_follow_are_named_and_the_others_serve_the_true_weights(culprits: set[int]) -> None:
    bench = Bench(num_engines=3)
    for culprit in culprits:
        bench.engines[culprit].ignored = set(BOTH[2 + culprit])
    before = dict(bench.senders.weights)
    run(bench.publisher.start())
    for culprit, (engine, reason) in zip(sorted(culprits), bench.fleet.losses, strict=True):
        assert engine == f"engine-{culprit}"
        assert reason.startswith(f"rehearsal on engine-{culprit}")
        assert reason.endswith(f"does not follow {', '.join(BOTH[2 + culprit])}")
    others = [engine for i, engine in enumerate(bench.engines) if i not in culprits]
    assert bench.fleet.serving == [engine.name for engine in others]
    assert bench.senders.weights == before
    assert all(engine.weights == before for engine in others)
    assert bench.publisher.num_rehearsals == len(others)


@pytest.mark.parametrize("phase", ["pause", "update", "generate"])
def test_an_engine_that_dies_in_a_rehearsal_leaves_the_others_to_it(phase: str) -> None:
    bench = Bench(num_engines=2)
    bench.engines[0].fails_at = (phase, 2)
    before = dict(bench.senders.weights)
    run(bench.publisher.start())
    assert [engine for engine, _ in bench.fleet.losses] == ["engine-0"]
    assert bench.fleet.serving == ["engine-1"]
    assert bench.publisher.not_exercised == ()
    assert bench.senders.weights == before


def test_an_engine_that_dies_while_its_layer_is_located_is_rejected_all_the_same() -> None:
    bench = Bench()
    # the noise and its answers pass, and the first half of the layers fails
    bench.engine.ignored = {name for layer in BOTH for name in layer}
    bench.engine.fails_at = ("start", 2)
    error = complaint(bench, "start")
    assert error.proof == "rehearsal"
    assert f"({len(BOTH)} layers" in error.subject


def test_rounding_may_be_larger_under_noise_than_at_rest() -> None:
    bench = Bench(dtype="bfloat16")
    bench.engine.noise_once_moved = 0.05
    run(bench.publisher.start())
    assert bench.publisher.canary_tolerance < 0.05
    bench = Bench(dtype="bfloat16")
    bench.engine.noise_once_moved = 5.0
    assert complaint(bench, "start").proof == "rehearsal"


def test_every_publish_reports_the_rehearsals_before_it() -> None:
    bench = Bench(num_engines=2)
    run(bench.publisher.start())
    assert [bench.publish().num_rehearsals for _ in range(2)] == [2, 2]


def test_a_rehearsal_that_is_cancelled_at_any_time_leaves_the_ranks_with_the_true_weights() -> None:
    num_phases = _phases_until_cancelled(Bench(num_engines=2), at=None)
    for at in range(1, num_phases + 1):
        bench = Bench(num_engines=2)
        before = dict(bench.senders.weights)
        assert _phases_until_cancelled(bench, at=at) >= at
        assert bench.senders.weights == before, at


def _phases_until_cancelled(bench: Bench, *, at: int | None) -> int:
    """Phases of a start that is cancelled when phase number `at` has begun and taken effect."""
    count = 0

    async def start() -> None:
        nonlocal count
        task = asyncio.create_task(bench.publisher.start())

        def cancel(phase: str) -> None:
            nonlocal count
            count += 1
            if count == at:
                # the ranks execute the call all the same
                asyncio.get_running_loop().call_soon(task.cancel)

        bench.shared.on_phase = cancel
        await asyncio.wait([task])

    perturb, restore = bench.senders.perturb, bench.senders.restore

    async def perturb_late(**settings: Any) -> None:
        await perturb(**settings)
        await asyncio.sleep(0)

    async def restore_late(**settings: Any) -> None:
        await restore(**settings)
        await asyncio.sleep(0)

    bench.senders.perturb, bench.senders.restore = perturb_late, restore_late
    run(start())
    return count
