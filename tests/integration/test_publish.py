"""Weights reach the engine whole and proven; broken on purpose, the proof that is meant to see it does."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from common.config.data import DataConfig
from common.config.learner import LearnerConfig, PublishConfig
from common.errors import PublishError
from common.models.registry import family_of
from common.prompts.probe_clips import probe_prompts
from common.types import Generation, ProcessedPrompt
from learner.publishing.publisher import Publisher
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import ENGINE, SAMPLING, start_ranks, stop_ranks
from tests.support.fakes import FakeFleet
from tests.support.media.clips import CASES, processed

QKV = "language_model.model.layers.0.self_attn.qkv_proj"
Q, K = ("thinker.model.layers.0.self_attn.q_proj.weight", "thinker.model.layers.0.self_attn.k_proj.weight")
EMBEDDING = "thinker.model.embed_tokens.weight"
STALE = (
    "thinker.audio_tower.layers.1.self_attn.q_proj.weight",
    "thinker.audio_tower.layers.0.self_attn.k_proj.weight",
    "thinker.visual.blocks.1.mlp.down_proj.weight",
    "thinker.visual.blocks.1.norm2.weight",
    "thinker.model.layers.1.input_layernorm.weight",
    "thinker.lm_head.weight",
    EMBEDDING,
)
"""The layers whose effect is smallest, and the two ends."""


class Rig:
    """One engine, one rank, and a publisher between them."""

    def __init__(self, run: Run, engine: EngineClient, model_path: str, dtype: str) -> None:
        self.run, self.engine, self.dtype, self.engine_path = run, engine, dtype, model_path
        self.ranks, self.info = start_ranks(model_path, config=LearnerConfig(beta=0.0), dtype=dtype)
        self.probes = probe_prompts(family_of(model_path), model_path=model_path, data=DataConfig())
        self.tolerance = 0.0
        self.publisher = self.new_publisher()
        run(self.engine.resume())
        run(self.publisher.start())
        self.tolerance = self.publisher.canary_tolerance
        self.record = self.publisher.record
        """Of the checkpoint from which engine and rank have started."""

    def new_publisher(
        self,
        *,
        plan: Any = None,
        version: int = 0,
        rehearsal: bool = True,
        is_verified: bool = True,
        senders: Any = None,
    ) -> Publisher:
        """A publisher that has sent nothing, over a fleet that has never lost the engine."""
        self.fleet = FakeFleet([self.engine], version=version, are_verified=is_verified)
        # in bfloat16 it was measured when the engine was whole
        tolerance = max(PublishConfig().canary_tolerance, self.tolerance)
        return Publisher(
            senders=senders or self.ranks,
            fleet=self.fleet,
            plan=plan or self.info["plan"],
            segments=self.info["segments"],
            probes=self.probes,
            sampling=SAMPLING,
            config=PublishConfig(deadline_s=120, rehearsal=rehearsal, canary_tolerance=tolerance),
            answer_deadline_s=ENGINE.answer_deadline_s,
            dtype=self.dtype,
            version=version,
        )

    def reject(self, publisher: Publisher, work: str) -> PublishError:
        """The error of a publish or start, after which the engine is lost."""
        with pytest.raises(PublishError) as caught:
            self.run(getattr(publisher, work)())
        assert [engine for engine, _ in self.fleet.losses] == [self.engine.name]
        assert self.fleet.serving == []
        return caught.value

    def as_if_restarted(self, *, senders: Any = None) -> Publisher:
        """A publisher whose engine counts as one that has just started."""
        publisher = self.new_publisher(is_verified=False, senders=senders)
        publisher.record.trials += self.record.trials
        publisher._has_tolerance = True
        return publisher

    def broken(self, how: str, name: str = "") -> None:
        """Breaks or mends the sender."""
        ray.get([h.break_sender.remote(how, name) for h in self.ranks.handles])

    def current_plan(self) -> Any:
        """The plan of the sender as it stands."""
        return ray.get(self.ranks.handles[0].current_plan.remote())

    def tell_workers(self, method: str, *args: Any) -> None:
        """Calls the engine's workers."""
        ray.get(self.engine.handle.call_workers.remote(method, *args))


@pytest.fixture(
    scope="module", params=["untied-float32", pytest.param("tied-float32", marks=pytest.mark.long), "tied-bfloat16"]
)
def rig(request: pytest.FixtureRequest, run: Run, untied: str, tied: str) -> Iterator[Rig]:
    """Each kind of engine with a rank of its own."""
    kind, dtype = request.param.split("-")
    fixture = "engine_bf16" if dtype == "bfloat16" else f"engine_{kind}"
    made = Rig(run, request.getfixturevalue(fixture), tied if kind == "tied" else untied, dtype)
    yield made
    stop_ranks(made.ranks)


@pytest.fixture(autouse=True)
def _whole_again(rig: Rig) -> Iterator[None]:
    """After each test the engine holds the rank's weights and follows them, whatever was done to it."""
    yield
    rig.publisher = rig.new_publisher()
    rig.run(rig.publisher.publish())


def test_a_publish_is_received_whole_and_the_engine_follows(rig: Rig) -> None:
    ray.get([h.take_tiny_step.remote(1e-2) for h in rig.ranks.handles])
    before = rig.publisher.version
    report = rig.run(rig.publisher.publish())
    assert report.version == before + 1
    assert len(rig.info["plan"].names) > 100
    assert report.canary[rig.engine.name].max <= rig.publisher.canary_tolerance
    assert ray.get(rig.engine.handle.versions.remote()) == (report.version, str(report.version))


def test_the_canary_sees_weights_that_were_not_published(rig: Rig) -> None:
    rig.run(rig.ranks.perturb(scale=0.5, nonce=11, names=None))
    try:
        error = rig.reject(rig.new_publisher(rehearsal=False), "start")
    finally:
        rig.run(rig.ranks.restore())
    assert (error.proof, error.engine) == ("canary", rig.engine.name)


def test_a_skipped_tensor_is_caught_by_the_receipt_at_a_learning_rate_no_canary_could_see(rig: Rig) -> None:
    ray.get([h.take_tiny_step.remote(1e-6) for h in rig.ranks.handles])
    rig.broken("skip", K)
    try:
        error = rig.reject(rig.publisher, "publish")
    finally:
        rig.broken("mend")
    # one of three fused projections is missing: the worker refuses the layer before the receipt compares
    assert error.proof in {"receipt", "update", "finish"}
    rig.broken("skip", "thinker.model.norm.weight")
    try:
        error = rig.reject(rig.new_publisher(), "publish")
    finally:
        rig.broken("mend")
    assert (error.proof, error.subject) == ("receipt", "thinker.model.norm.weight")
    assert ray.get(rig.engine.handle.is_paused.remote()), "an engine with a failed receipt serves nothing"


def test_half_a_fused_layer_is_refused_with_its_name(rig: Rig) -> None:
    rig.broken("half", Q)
    try:
        error = rig.reject(rig.new_publisher(plan=rig.current_plan()), "publish")
    finally:
        rig.broken("mend")
    assert QKV in str(error)
    assert error.proof in {"update", "finish"}


def test_a_bucket_border_inside_a_layer_is_refused_with_its_name(rig: Rig) -> None:
    rig.broken("cut", Q)
    try:
        error = rig.reject(rig.new_publisher(plan=rig.current_plan()), "publish")
    finally:
        rig.broken("mend")
    assert QKV in str(error)
    assert error.proof == "update"


@pytest.mark.parametrize("name", STALE)
def test_a_layer_left_stale_is_caught_by_the_rehearsal_with_its_name(rig: Rig, name: str) -> None:
    layer = next((layer for layer in rig.info["plan"].layers if name in layer), None)
    if layer is None:
        pytest.skip("a tied head has no tensor of its own")
    rig.tell_workers("hold", list(layer))
    try:
        rig.run(rig.publisher.publish())
        error = rig.reject(rig.publisher, "start")
    finally:
        rig.tell_workers("hold", [])
    assert (error.proof, error.subject) == ("rehearsal", ", ".join(layer))


def test_a_healthy_engine_passes_and_only_what_has_no_effect_is_not_claimed(rig: Rig) -> None:
    for _ in range(3):
        rig.run(rig.publisher.start())
        assert rig.publisher.not_exercised == (("thinker.audio_tower.audio_bos_eos_token.weight",),)
    rig.run(rig.publisher.publish())
    # labels of a rehearsal are never used twice, by a second publisher either
    rig.run(rig.publisher.start())
    assert rig.fleet.serving == [rig.engine.name]


class NoRanks:
    """Ranks of which every call fails the test."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the ranks were asked to {name}")


def test_a_restarted_engine_is_rehearsed_without_the_ranks_whatever_they_hold(rig: Rig) -> None:
    ray.get([h.take_tiny_step.remote(1e-2) for h in rig.ranks.handles])
    rig.run(rig.publisher.publish())
    publisher = rig.as_if_restarted(senders=NoRanks())
    rig.run(publisher.rehearse_alone())
    assert rig.fleet.losses == []
    assert list(rig.fleet.unverified()) == [], "the engine's noise must be the recorded one, bit for bit"
    assert rig.fleet.serving == []


@pytest.mark.parametrize("name", STALE)
def test_a_layer_that_a_restarted_engine_does_not_use_is_caught_by_the_record(
    rig: Rig, name: str, request: pytest.FixtureRequest
) -> None:
    if "bfloat16" in request.node.name and "audio_tower" in name:
        # a known gap, see docs/publishing.md: seen to pass once and to fail once
        request.applymarker(pytest.mark.xfail(strict=False, reason="rounding can hide this layer from the record"))
    layer = next((layer for layer in rig.info["plan"].layers if name in layer), None)
    if layer is None:
        pytest.skip("a tied head has no tensor of its own")
    rig.tell_workers("hold", list(layer))
    try:
        rig.run(rig.publisher.publish())
        rig.run(rig.as_if_restarted(senders=NoRanks()).rehearse_alone())
    finally:
        rig.tell_workers("hold", [])
    ((engine, reason),) = rig.fleet.losses
    assert engine == rig.engine.name
    assert reason.startswith(f"rehearsal on {engine}")


def test_ranks_of_an_older_version_take_the_engine_back(rig: Rig) -> None:
    ahead = rig.new_publisher(version=4)
    rig.run(rig.ranks.perturb(scale=1.0, nonce=21, names=None))
    try:
        assert rig.run(ahead.publish()).version == 5
    finally:
        rig.run(rig.ranks.restore())
    assert rig.reject(rig.new_publisher(version=3, rehearsal=False), "start").proof == "canary"
    rig.publisher = rig.new_publisher(version=3)
    at_rest = rig.run(rig.publisher.start(synchronize=True))
    assert at_rest[rig.engine.name].max <= rig.publisher.canary_tolerance
    assert ray.get(rig.engine.handle.versions.remote()) == (3, "3")
    prompt = processed(CASES[0], rig.engine_path, seed=5)
    answer = rig.run(rig.engine.generate(prompt, sampling=SAMPLING, group_size=2, seed=1, deadline_s=120))
    assert isinstance(answer, Generation)
    assert {span.version for c in answer.completions for span in c.version_spans} == {3}
    # the same probe was just asked of the newer weights: none of its cache entries are served
    again = rig.run(rig.publisher.start())
    assert again[rig.engine.name].max <= rig.publisher.canary_tolerance


def test_a_tied_head_left_stale_is_caught_by_the_rehearsal_with_its_name(rig: Rig) -> None:
    if "thinker.lm_head.weight" in rig.info["plan"].names:
        # a head of its own arrives under its own name: nothing is stale, and the rehearsal says so
        rig.run(rig.publisher.start())
        assert rig.fleet.losses == []
        return
    rig.tell_workers("set_repacking", False)
    try:
        error = rig.reject(rig.publisher, "start")
    finally:
        rig.tell_workers("set_repacking", True)
    assert (error.proof, error.subject) == ("rehearsal", EMBEDDING)


@pytest.mark.parametrize("what", ["tower", "weights"])
def test_a_cache_entry_served_old_is_caught_by_the_rehearsal(rig: Rig, what: str) -> None:
    ray.get(rig.engine.handle.freeze_identity.remote(what))
    try:
        error = rig.reject(rig.publisher, "start")
    finally:
        ray.get(rig.engine.handle.freeze_identity.remote(None))
    assert error.proof == "rehearsal"
    named = error.subject
    if what == "tower":
        assert "thinker.visual." in named or "thinker.audio_tower." in named
        assert "thinker.model." not in named
    else:
        assert "thinker.model." in named


def test_twenty_publishes_under_load_lose_nothing_in_flight(rig: Rig) -> None:
    prompts = [processed(case, rig.engine_path, seed=3) for case in CASES[:4]]
    answers = rig.run(_load(rig, prompts, num_publishes=20))
    assert len(answers) >= 20
    for answer in answers:
        assert isinstance(answer, Generation)
        assert len(answer.completions) == 4
        for completion in answer.completions:
            assert completion.finish_reason in {"stop", "length"}
            assert len(completion.token_ids) == len(completion.rollout_logprobs) > 0
            spans = completion.version_spans
            assert spans[0].start == 0
            assert spans[-1].end == len(completion.token_ids)
            assert all(a.end == b.start and a.version < b.version for a, b in itertools.pairwise(spans))
            assert spans[0].version >= answer.submission_version
    crossed = [c for a in answers for c in a.completions if len(c.version_spans) > 1]
    assert crossed, "some completions must have lived through a publish"


async def _load(rig: Rig, prompts: list[ProcessedPrompt], *, num_publishes: int) -> list[Any]:
    """Keeps repeated clips in flight while weights, towers included, change twenty times."""
    answers: list[Any] = []
    running = True

    async def client(index: int) -> None:
        request = 0
        while running:
            prompt = prompts[(index + request) % len(prompts)]
            answers.append(
                await rig.engine.generate(
                    prompt, sampling=SAMPLING, group_size=4, seed=10_000 * index + 64 * request, deadline_s=120
                )
            )
            request += 1

    clients = [asyncio.create_task(client(i)) for i in range(4)]
    try:
        for nonce in range(num_publishes):
            await rig.ranks.perturb(scale=0.01, nonce=100 + nonce, names=None)
            report = await rig.publisher.publish()
            assert report.canary[rig.engine.name].max <= rig.publisher.canary_tolerance
    finally:
        running = False
        _, pending = await asyncio.wait(clients, timeout=60)
    assert not pending, "a request hangs"
    for done in clients:
        done.result()
    await rig.ranks.restore()
    return answers
