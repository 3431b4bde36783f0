"""The publisher over ranks and engines of a few numbers: order, deadlines, identities and the three proofs."""

import asyncio
import math

import pytest

from common.config.learner import PublishConfig
from common.errors import PublishError
from common.types import Failure, ProcessedPrompt, SamplingSpec
from learner.plan import PublishPlan
from learner.publisher import Publisher, PublishReport
from tests.support.builders import text_prompt
from tests.support.clock import run
from tests.support.fakes import SEGMENTS, FakeEngine, FakeSenders, Fleet, plan_of

LAYERS = [[f"layer-{i}.{part}" for part in ("weight", "bias")] for i in range(5)]
TOWERS = [[f"tower-{i}.{part}" for part in ("weight", "bias")] for i in range(2)]
BOTH = [*TOWERS, *LAYERS]
CLIP = ProcessedPrompt(prompt_token_ids=(1, 2), tensors={}, placeholders={"video": (0, 1)}, clip_hash="clip")
PROBES = (CLIP, text_prompt([3]))


class Bench:
    """A publisher and everything it talks to."""

    def __init__(
        self,
        *,
        plan: PublishPlan | None = None,
        num_engines: int = 1,
        dtype: str = "float32",
        rehearsal: bool = True,
        canary_noise_factor: float = 3.0,
    ) -> None:
        self.fleet = Fleet(plan=plan or plan_of(BOTH))
        self.senders = FakeSenders(self.fleet)
        self.engines = [FakeEngine(self.fleet, self.senders, name=f"engine-{i}") for i in range(num_engines)]
        self.publisher = self.another(dtype=dtype, rehearsal=rehearsal, canary_noise_factor=canary_noise_factor)

    def another(
        self,
        *,
        dtype: str = "float32",
        rehearsal: bool = True,
        canary_noise_factor: float = 3.0,
    ) -> Publisher:
        """A publisher over the same engines."""
        return Publisher(
            senders=self.senders,
            engines=self.engines,
            plan=self.fleet.plan,
            segments=SEGMENTS,
            probes=PROBES,
            sampling=SamplingSpec(temperature=0.9, max_tokens=64),
            config=PublishConfig(deadline_s=30.0, rehearsal=rehearsal, canary_noise_factor=canary_noise_factor),
            dtype=dtype,
        )

    @property
    def engine(self) -> FakeEngine:
        """The first."""
        return self.engines[0]

    def publish(self) -> PublishReport:
        """One step of the optimizer, and its publish."""
        self.senders.step()
        return run(self.publisher.publish())

    def phases(self, who: str) -> list[str]:
        """What one of them did, in order."""
        return [" ".join(entry[1:]).strip() for entry in self.fleet.log if entry[0] == who]


def complaint(bench: Bench, work: str = "publish") -> PublishError:
    """What starting or publishing raises."""
    with pytest.raises(PublishError) as caught:
        run(bench.publisher.start()) if work == "start" else bench.publish()
    return caught.value


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
    order = [entry[1] for entry in bench.fleet.log if entry[1] in {"pause", "start", "finish", "resume"}]
    assert order == ["pause"] * 3 + ["start"] * 3 + ["finish"] * 3 + ["resume"] * 3


def test_a_segment_is_not_written_again_before_every_engine_has_read_it() -> None:
    bench = Bench(num_engines=2)
    bench.publish()
    log = bench.fleet.log
    for bucket in range(2, len(BOTH)):
        written = log.index(("ranks", "gather", str(bucket)))
        assert all(log.index((e.name, "updated", str(bucket - 2))) < written for e in bench.engines)


def test_the_next_bucket_is_gathered_while_one_loads() -> None:
    bench = Bench()
    bench.publish()
    log = bench.fleet.log
    for bucket in range(len(BOTH) - 1):
        gathered = log.index(("ranks", "gather", str(bucket + 1)))
        assert gathered < log.index(("engine-0", "updated", str(bucket)))


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
    assert bench.publisher.num_publishes == 3


def test_a_report_says_what_was_sent() -> None:
    report = Bench(num_engines=2).publish()
    assert report.num_tensors == 14
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
    run(bench.publisher.rehearse(bench.engine))
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
def test_a_tensor_that_one_engine_lost_stops_the_publish(name: str) -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].lost = {name}
    error = complaint(bench)
    assert (error.proof, error.engine, error.subject) == ("receipt", "engine-1", name)


def test_a_tensor_that_the_ranks_skipped_stops_the_publish() -> None:
    bench = Bench()
    bench.senders.skipped = {"layer-3.weight"}
    error = complaint(bench)
    assert (error.proof, error.subject) == ("receipt", "layer-3.weight")


def test_nothing_resumes_after_a_failed_receipt() -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].lost = {"layer-2.bias"}
    complaint(bench)
    assert not any(entry[1] in {"resume", "generate"} for entry in bench.fleet.log)
    assert bench.publisher.version == 0
    assert bench.publisher.num_publishes == 0


# -- deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["pause", "start", "update", "finish", "resume"])
def test_a_phase_past_its_deadline_names_itself_and_the_engine(phase: str) -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].hangs_on = phase
    error = complaint(bench)
    assert (error.proof, error.engine) == (phase, "engine-1")
    assert f"{phase} on engine-1 must end within 30.0 s" in str(error)
    assert bench.publisher.version == 0


@pytest.mark.parametrize("phase", ["gather", "score"])
def test_ranks_past_their_deadline_are_named(phase: str) -> None:
    bench = Bench()
    bench.senders.hangs_on = phase
    error = complaint(bench)
    assert (error.proof, error.engine) == (phase, "ranks")


@pytest.mark.parametrize("phase", ["perturb", "restore"])
def test_a_rehearsal_past_its_deadline_names_the_ranks(phase: str) -> None:
    bench = Bench()
    bench.senders.hangs_on = phase

    async def start() -> None:
        # longer than the publisher's own deadline: without one, this would pass instead
        async with asyncio.timeout(3600):
            await bench.publisher.start()

    with pytest.raises(PublishError) as caught:
        run(start())
    assert (caught.value.proof, caught.value.engine) == (phase, "ranks")


def test_an_engine_that_does_not_answer_the_probe_is_named() -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].hangs_on = "generate"
    error = complaint(bench)
    assert (error.proof, error.engine) == ("probe", "engine-1")


def test_a_probe_that_fails_stops_the_publish() -> None:
    bench = Bench()
    bench.engine.probe_failure = Failure(stage="rollout", reason="too-long", detail="no room")
    error = complaint(bench)
    assert (error.proof, error.engine, error.subject) == ("probe", "engine-0", "too-long")
    assert "no room" in str(error)


# -- canary ---------------------------------------------------------------------------------------


def test_an_engine_that_drifts_is_caught_by_the_canary() -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].noise_once_moved = 2e-4
    error = complaint(bench)
    assert (error.proof, error.engine) == ("canary", "engine-1")
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


def test_an_engine_that_disagrees_at_rest_never_starts() -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].noise = 1e-3
    error = complaint(bench, "start")
    assert (error.proof, error.engine) == ("canary", "engine-1")


def test_in_bfloat16_an_engine_that_computes_something_else_does_not_set_its_own_tolerance() -> None:
    bench = Bench(dtype="bfloat16", num_engines=2)
    bench.engines[1].noise = 5.0
    error = complaint(bench, "start")
    assert (error.proof, error.engine) == ("canary", "engine-1")
    assert bench.phases("engine-1")[-1] == "pause"


def test_in_bfloat16_noise_past_rounding_is_refused() -> None:
    bench = Bench(dtype="bfloat16")
    bench.engine.noise = 0.3
    error = complaint(bench, "start")
    assert error.proof == "canary"
    assert "0.25" in str(error)


def test_an_engine_that_fails_its_canary_serves_nothing() -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].noise = 1e-3
    assert complaint(bench).engine == "engine-1"
    assert bench.phases("engine-1")[-1] == "pause"


def test_an_engine_that_fails_its_rehearsal_serves_nothing() -> None:
    bench = Bench()
    bench.engine.ignored.add("layer-2.weight")
    assert complaint(bench, "start").proof == "rehearsal"
    assert bench.phases("engine-0")[-1] == "pause"


def test_the_probe_is_drawn_from_the_whole_vocabulary() -> None:
    bench = Bench()
    publisher = Publisher(
        senders=bench.senders,
        engines=bench.engines,
        plan=bench.fleet.plan,
        segments=SEGMENTS,
        probes=PROBES,
        sampling=SamplingSpec(temperature=0.7, top_p=0.5, top_k=3),
        config=PublishConfig(),
        dtype="float32",
    )
    sampling = publisher._probe_sampling  # pyright: ignore[reportPrivateUsage]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.7, 1.0, 0)


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


# -- rehearsal ------------------------------------------------------------------------------------


def test_a_rehearsal_ends_with_the_true_weights() -> None:
    bench = Bench(num_engines=2)
    before = dict(bench.senders.weights)
    at_rest = run(bench.publisher.start())
    assert bench.senders.weights == before
    assert all(engine.weights == before for engine in bench.engines)
    assert bench.publisher.num_rehearsals == 2
    assert bench.publisher.version == 0
    assert set(at_rest) == {"engine-0", "engine-1"}


def test_every_publish_reports_the_rehearsals_before_it() -> None:
    bench = Bench(num_engines=2)
    run(bench.publisher.start())
    assert [bench.publish().num_rehearsals for _ in range(2)] == [2, 2]


def test_a_rehearsal_moves_every_published_tensor() -> None:
    bench = Bench()
    run(bench.publisher.start())
    assert bench.senders.perturbed == [None]


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
    # the ranks hold the true weights again, and so does the engine as far as it follows
    assert bench.senders.weights == before
    assert bench.engine.weights == before


def test_a_tower_that_only_media_can_see_is_looked_for_among_the_towers() -> None:
    bench = Bench()
    bench.engine.ignored = set(TOWERS[1])
    assert "tower-1.weight" in complaint(bench, "start").subject
    everything, *halves = bench.senders.perturbed
    assert everything is None
    assert halves
    assert all(name.startswith("tower") for half in halves for name in half or ())


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
    run(bench.publisher.rehearse(bench.engine))
    nonces = [entry[2] for entry in bench.fleet.log if entry[1] == "perturb"]
    assert len(set(nonces)) == len(nonces) == 2
