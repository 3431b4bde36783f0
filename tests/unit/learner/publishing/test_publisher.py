"""The publisher over ranks and engines of a few numbers: order, deadlines, identities, receipts and the canary."""

import math
from typing import Any

import pytest

from common.config.learner import PublishConfig
from common.errors import LearnerError, PublishError
from common.types import Failure
from tests.support.clock import run
from tests.support.fakes import SEGMENTS, plan_of
from tests.support.publisher_bench import BOTH, LAYERS, Bench, complaint

# -- one publish ----------------------------------------------------------------------------------


def test_phases_follow_each_other_on_every_engine() -> None:
    bench = Bench(plan=plan_of(BOTH, layers_per_bucket=3), num_engines=2)
    bench.publish()
    for engine in bench.engines:
        assert bench.phases(engine.name) == [
            "pause",
            "start",
            *(f"{phase} {bucket}" for bucket in range(3) for phase in ("update", "updated")),
            "finish",
            "resume",
            "generate",
            "generate",
        ]


def test_no_engine_starts_a_phase_before_all_have_ended_the_one_before() -> None:
    bench = Bench(num_engines=3)
    bench.publish()
    order = [entry[1] for entry in bench.shared.log if entry[1] in {"pause", "start", "finish", "resume"}]
    assert order == ["pause"] * 3 + ["start"] * 3 + ["finish"] * 3 + ["resume"] * 3


def test_a_segment_is_not_written_again_before_every_engine_has_read_it() -> None:
    bench = Bench(num_engines=2)
    bench.publish()
    log = bench.shared.log
    for bucket in range(2, len(BOTH)):
        written = log.index(("ranks", "gather", str(bucket)))
        assert all(log.index((e.name, "updated", str(bucket - 2))) < written for e in bench.engines)


def test_the_next_bucket_is_gathered_while_one_loads() -> None:
    bench = Bench()
    bench.publish()
    log = bench.shared.log
    for bucket in range(len(BOTH) - 1):
        gathered = log.index(("ranks", "gather", str(bucket + 1)))
        assert gathered < log.index(("engine-0", "updated", str(bucket)))


def test_engines_generate_while_the_first_buckets_are_gathered() -> None:
    bench = Bench(num_engines=2)
    bench.publish()
    log = bench.shared.log
    paused = min(log.index((engine.name, "pause", "")) for engine in bench.engines)
    gathered = [int(bucket) for who, phase, bucket in log[:paused] if (who, phase) == ("ranks", "gather")]
    assert gathered == list(range(len(SEGMENTS)))


def test_engines_hold_what_the_ranks_hold() -> None:
    bench = Bench(num_engines=2)
    for _ in range(3):
        bench.publish()
        assert all(engine.weights == bench.senders.weights for engine in bench.engines)


def test_a_version_rises_by_one_with_each_publish() -> None:
    bench = Bench()
    run(bench.publisher.start())
    assert bench.publisher.version == 0
    reports = [bench.publish() for _ in range(3)]
    assert [r.version for r in reports] == [1, 2, 3]
    assert bench.publisher.version == bench.engine.version == 3


def test_a_report_says_what_was_sent() -> None:
    report = Bench(num_engines=2).publish()
    # 2 x 2 float32 each
    assert report.num_bytes == 14 * 16
    assert set(report.canary) == {"engine-0", "engine-1"}
    assert all(a.max < 1e-9 for a in report.canary.values())
    assert (report.canary_tolerance, report.num_rehearsals) == (PublishConfig().canary_tolerance, 0)
    assert set(report.seconds) == {"pause", "start", "gather", "update", "finish", "resume", "canary"}


# -- identities -----------------------------------------------------------------------------------


def test_every_publish_has_cache_identities_of_its_own() -> None:
    bench = Bench(plan=plan_of(BOTH))
    for _ in range(3):
        bench.publish()
    versions, weights_ids, tower_ids = zip(*bench.engine.identities, strict=True)
    assert versions == (1, 2, 3)
    assert len(set(weights_ids)) == len(set(tower_ids)) == 3


def test_frozen_towers_keep_their_identity() -> None:
    bench = Bench(plan=plan_of(LAYERS))
    run(bench.publisher.start())
    for _ in range(2):
        bench.publish()
    _, weights_ids, tower_ids = zip(*bench.engine.identities, strict=True)
    assert len(set(tower_ids)) == 1
    # rehearsal, the true weights again, two publishes
    assert len(set(weights_ids)) == len(weights_ids) == 4


@pytest.mark.parametrize("changes_towers", [True, False])
def test_perturbed_weights_never_share_an_identity_with_true_ones(changes_towers: bool) -> None:
    bench = Bench(plan=plan_of(BOTH if changes_towers else LAYERS))
    run(bench.publisher.start())
    bench.publish()
    run(bench.publisher.start())
    rehearsed, at_rest, published, rehearsed_again, back = bench.engine.identities
    assert len({rehearsed[1], at_rest[1], published[1], rehearsed_again[1]}) == 4
    # the same weights are the same identity: what was cached under it is still true
    assert back == published
    assert [i[0] for i in bench.engine.identities] == [0, 0, 1, 1, 1]
    if changes_towers:
        assert len({rehearsed[2], at_rest[2], published[2], rehearsed_again[2]}) == 4


def test_two_publishers_of_one_engine_share_no_identity() -> None:
    bench = Bench()
    bench.publish()
    bench.publisher = bench.another()
    bench.publish()
    (_, first, first_tower), (_, second, second_tower) = bench.engine.identities
    assert first != second
    assert first_tower != second_tower


# -- receipt --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["layer-0.weight", "tower-1.bias"])
def test_an_engine_that_lost_a_tensor_is_named_with_it(name: str) -> None:
    bench = Bench()
    bench.engine.lost = {name}
    error = complaint(bench)
    assert (error.proof, error.engine, error.subject) == ("receipt", "engine-0", name)


def test_a_tensor_that_the_ranks_skipped_stops_the_publish() -> None:
    bench = Bench()
    bench.senders.skipped = {"layer-3.weight"}
    error = complaint(bench)
    assert (error.proof, error.subject) == ("receipt", "layer-3.weight")


def test_nothing_resumes_after_a_failed_receipt() -> None:
    bench = Bench()
    bench.engine.lost = {"layer-2.bias"}
    complaint(bench)
    assert not any(entry[1] in {"resume", "generate"} for entry in bench.shared.log)
    assert bench.publisher.version == 0


# -- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["gather", "score"])
def test_ranks_that_hang_in_a_publish_are_rebuilt_like_dead_ones(phase: str) -> None:
    bench = Bench()
    bench.senders.hangs_on = phase
    with pytest.raises(LearnerError, match=f"{phase} on ranks must end within 60 s"):
        run(bench.publisher.publish())
    assert bench.publisher.version == 0


def test_all_engines_answer_the_probe_at_the_same_time() -> None:
    bench = Bench(num_engines=3)
    for engine in bench.engines:
        engine.slow_on = "generate"
    run(bench.publisher.publish())
    asked = [i for i, entry in enumerate(bench.shared.log) if entry[1] == "generate"]
    answered = [i for i, entry in enumerate(bench.shared.log) if entry[1:] == ("slow", "generate")]
    assert len({bench.shared.log[i][0] for i in asked}) == 3
    assert max(asked) < min(answered)
    assert [entry for entry in bench.shared.log if entry[1] == "score"] == [("ranks", "score", "")]


def test_a_probe_that_fails_stops_the_publish() -> None:
    bench = Bench()
    bench.engine.probe_failure = Failure(stage="rollout", reason="too-long", detail="no room")
    error = complaint(bench)
    assert (error.proof, error.engine, error.subject) == ("probe", "engine-0", "too-long")
    assert "no room" in str(error)


# -- ranks that were rebuilt ----------------------------------------------------------------------


def ahead(bench: Bench, *, version: int) -> None:
    """Engines of a version that the ranks have lost."""
    for engine in bench.engines:
        engine.weights = {name: value * 1.5 for name, value in engine.weights.items()}
        engine.version = version


def test_ranks_of_an_older_version_take_the_engines_back() -> None:
    bench = Bench(num_engines=2)
    ahead(bench, version=5)
    bench.publisher = bench.another(version=3, rehearsal=False)
    assert set(run(bench.publisher.start(synchronize=True))) == {"engine-0", "engine-1"}
    assert bench.publisher.version == 3
    assert [e.version for e in bench.engines] == [3, 3]
    assert all(e.weights == bench.senders.weights for e in bench.engines)
    assert bench.publish().version == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_engines_that_hold_other_weights_are_rejected_unless_synchronized(dtype: str) -> None:
    for synchronize in (False, True):
        bench = Bench(dtype=dtype)
        ahead(bench, version=5)
        bench.publisher = bench.another(dtype=dtype, version=3)
        if not synchronize:
            with pytest.raises(PublishError, match="canary"):
                run(bench.publisher.start())
            continue
        run(bench.publisher.start(synchronize=True))
        assert bench.engine.version == bench.publisher.version == 3
        assert bench.engine.weights == bench.senders.weights


def test_weights_sent_again_have_identities_of_their_own() -> None:
    bench = Bench(rehearsal=False)
    for _ in range(3):
        bench.senders.step()
        run(bench.publisher.start(synchronize=True))
    versions, weights_ids, tower_ids = zip(*bench.engine.identities, strict=True)
    # each time once to compare, and once to deliver the same weights
    assert versions == (0, 0) * 3
    assert len(set(weights_ids)) == len(set(tower_ids)) == 3


def test_a_publish_that_failed_shares_no_identity_with_the_next() -> None:
    bench = Bench()
    bench.engine.lost = {"layer-0.weight"}
    complaint(bench)
    bench.engine.lost = set()
    bench.fleet.join(bench.engine, is_verified=True)
    bench.publish()
    (_, first, _), (_, second, _) = bench.engine.identities
    assert first != second


def test_weights_sent_again_are_proven() -> None:
    bench = Bench(num_engines=3, rehearsal=False)
    bench.engines[1].lost = {"layer-1.bias"}
    bench.engines[2].ignored = {"layer-1.bias"}
    bench.senders.step()
    assert set(run(bench.publisher.start(synchronize=True))) == {"engine-0"}
    (_, first), (_, second) = bench.fleet.losses
    assert first.startswith("receipt on engine-1")
    assert second.startswith("canary on engine-2")
    assert bench.fleet.serving == ["engine-0"]


# -- canary ---------------------------------------------------------------------------------------


def test_an_engine_that_drifts_is_caught_by_the_canary() -> None:
    bench = Bench()
    bench.engine.noise_once_moved = 2e-4
    error = complaint(bench)
    assert (error.proof, error.engine) == ("canary", "engine-0")
    assert "at version 1" in str(error)
    assert "2.00e-04" in str(error)


@pytest.mark.parametrize("noise", [math.nan, math.inf])
def test_a_canary_that_is_not_finite_does_not_pass(noise: float) -> None:
    bench = Bench()
    bench.engine.noise_once_moved = noise
    assert complaint(bench).proof == "canary"


def test_a_difference_within_the_tolerance_passes() -> None:
    bench = Bench()
    bench.engine.noise = 0.5e-4
    assert bench.publish().canary["engine-0"].max == pytest.approx(0.5e-4)


@pytest.mark.parametrize("noise", [1e-3, math.nan])
def test_an_engine_that_disagrees_at_rest_never_serves(noise: float) -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].noise = noise
    assert set(run(bench.publisher.start())) == {"engine-0"}
    assert [engine for engine, _ in bench.fleet.losses] == ["engine-1"]
    assert bench.fleet.serving == ["engine-0"]
    # no noise was sent to it
    assert "pause" not in bench.phases("engine-1")


@pytest.mark.parametrize("noise", [5.0, math.nan])
@pytest.mark.parametrize("culprit", [0, 1])
def test_in_bfloat16_an_engine_that_computes_something_else_does_not_set_the_tolerance(
    noise: float, culprit: int
) -> None:
    bench = Bench(dtype="bfloat16", num_engines=2)
    bench.engines[culprit].noise = noise
    bench.engines[1 - culprit].noise = 0.01
    run(bench.publisher.start())
    assert [engine for engine, _ in bench.fleet.losses] == [f"engine-{culprit}"]
    assert bench.publisher.canary_tolerance == pytest.approx(0.03)


def test_in_bfloat16_noise_past_rounding_is_refused() -> None:
    bench = Bench(dtype="bfloat16")
    bench.engine.noise = 0.3
    error = complaint(bench, "start")
    assert error.proof == "canary"
    assert "0.25" in str(error)


def test_the_probe_is_drawn_from_the_whole_vocabulary() -> None:
    bench = Bench()
    run(bench.publisher.start())
    bench.publish()
    assert bench.engine.samplings
    assert {(s.temperature, s.top_p, s.top_k) for s in bench.engine.samplings} == {(0.9, 1.0, 0)}


def test_in_bfloat16_the_tolerance_is_the_noise_at_rest() -> None:
    bench = Bench(dtype="bfloat16", canary_noise_factor=3.0)
    bench.engine.noise = 0.01
    run(bench.publisher.start())
    assert bench.publisher.canary_tolerance == pytest.approx(0.03)
    bench.engine.noise = 0.029
    report = bench.publish()
    assert report.canary_tolerance == bench.publisher.canary_tolerance
    bench.engine.noise = 0.031
    assert complaint(bench).proof == "canary"


@pytest.mark.parametrize("call", ["send_bucket", "score"])
def test_ranks_that_die_during_a_publish_are_no_engines_fault(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    run(bench.publisher.start())

    async def dies(*_: Any, **__: Any) -> Any:
        raise LearnerError("a learner rank died")

    monkeypatch.setattr(bench.senders, call, dies)
    with pytest.raises(LearnerError, match="a learner rank died"):
        bench.publish()
    assert bench.fleet.losses == []
