"""Clips whose objects are lost for real: a Ray of two nodes, of which one runs the media tasks and is then removed.

The media stage, the producer, the clients, and the fetches of engines and ranks are those of the product. What the
engines and ranks compute is small, and depends on all that they were given, as in the product.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.cluster_utils import Cluster
from ray.experimental import get_object_locations

from common.config.data import DataConfig
from common.prompts.preparation import MediaSettings
from common.prompts.preparation_ray import MediaStage
from common.types import Clip, Completion, Failure, Generation, ProcessedPrompt, Prompt, Record, SamplingSpec, Score
from learner.actor import LearnerRank, RankClients
from learner.ledger import Ledger
from learner.loops.producer import GroupProducer
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream
from learner.records.event_log import EventLog
from learner.training.batch import TrainGroup
from rollout.actor import CONCURRENCY_GROUPS, EngineActor, EngineClient
from rollout.scoring import LogprobScorer
from tests.support.builders import make_completion, make_draw, make_group, make_record
from tests.support.media.corpora import put_mp4

NUM_CLIPS = 4
NUM_ENGINES = NUM_RANKS = 2
WAIT_S = 60.0
INLINED_BYTES = 100 * 1024
"""Ray keeps smaller objects with their owner: they cannot be lost."""
ON_HEAD: dict[str, Any] = {"num_cpus": 0, "resources": {"head": 1}}


class TwoNodes:
    """A head with the driver and the actors, and a node of one CPU for the media tasks."""

    def __init__(self) -> None:
        quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 1000}
        head = {"num_cpus": 0, "resources": {"head": 100}, "include_dashboard": False, "_system_config": quick}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=self._cluster.address, log_to_driver=False)
        self._node = self._cluster.add_node(num_cpus=1)

    def replace_node(self) -> None:
        """Kills the node of the media tasks; another one takes its place."""
        lost, self._node = self._node, self._cluster.add_node(num_cpus=1)
        self._cluster.remove_node(lost, allow_graceful=False)
        deadline = time.monotonic() + WAIT_S
        while sum(node["Alive"] for node in ray.nodes()) > 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


class SmallEngine:
    """A `RolloutEngine` whose tokens depend on all prompts and seeds of a batch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started: list[int] = []
        """Number of prompts of each batch that began."""

    async def generate(self, prompt: ProcessedPrompt, *, seed: int, **request: Any) -> Generation | Failure:
        return (await self.generate_together([prompt], seeds=[seed], **request))[0]

    async def generate_together(
        self, prompts: Sequence[ProcessedPrompt], *, seeds: Sequence[int], group_size: int, **_: Any
    ) -> list[Generation | Failure]:
        self.started.append(len(prompts))
        batch = repr([(prompt.clip_hash, seed) for prompt, seed in zip(prompts, seeds, strict=True)])
        return [
            Generation(
                completions=tuple(
                    make_completion(hashlib.sha256(f"{batch}/{i}/{j}".encode()).digest()) for j in range(group_size)
                ),
                submission_version=0,
                engine=self.name,
            )
            for i in range(len(prompts))
        ]

    async def score(self, prompt: ProcessedPrompt, **_: Any) -> float | Failure:
        self.started.append(1)
        return -float(len(prompt.prompt_token_ids))


class SmallEngineActor(EngineActor):
    """The product's actor around a small engine."""

    def __init__(self, name: str) -> None:
        self.loop, self._name = None, name
        self._start: Any = Future()
        self._start.set_result(SmallEngine(name))

    async def seen(self) -> tuple[int, list[int]]:
        """The process, and the sizes of the batches that it began."""
        return os.getpid(), self._engine.started  # pyright: ignore[reportAttributeAccessIssue]


class Meeting:
    """A collective: each call returns when all ranks have called."""

    def __init__(self, size: int) -> None:
        self._barrier = asyncio.Barrier(size)

    async def meet(self) -> None:
        await self._barrier.wait()


class SmallLearner:
    """A `LearnerEngine` whose step is a collective, and returns the number of its rank's clips."""

    def __init__(self, meeting: Any, log: list[str]) -> None:
        self._meeting, self._log = meeting, log

    def train_step(self, groups: Sequence[TrainGroup]) -> dict[str, float]:
        self._log.append("step")
        ray.get(self._meeting.meet.remote(), timeout=WAIT_S)
        return {"num_clips": float(len(groups))}

    def sft_step(self, examples: Sequence[Any]) -> dict[str, float]:
        return self.train_step(examples)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class SmallRank(LearnerRank):
    """The product's rank around a small learner."""

    def __init__(self, *, rank: int, world_size: int, meeting: Any) -> None:
        super().__init__(rank=rank, world_size=world_size)
        self._log: list[str] = []
        self._engine = SmallLearner(meeting, self._log)  # pyright: ignore[reportAttributeAccessIssue]

    def fetch(self, media: Sequence[Any]) -> dict[int, str]:
        lost = super().fetch(media)
        self._log.append(f"{len(lost)} of {len(media)} lost")
        return lost

    def seen(self) -> tuple[int, list[str]]:
        """The process, and its fetches and steps."""
        return os.getpid(), self._log


class Scene:
    """Clips, engines and ranks on two nodes."""

    def __init__(self, folder: Path, model_path: str) -> None:
        self.folder, self.model_path = folder, model_path
        self.nodes = TwoNodes()
        self.records: list[Record] = []
        for i in range(NUM_CLIPS):
            path = str(put_mp4(folder / f"clip-{i}.mp4"))
            clip = Clip(clip_id=f"clip-{i}", video_path=path, audio_path=path)
            self.records.append(replace(make_record(f"clip-{i}"), clip=clip))
        actor = ray.remote(concurrency_groups=CONCURRENCY_GROUPS)(SmallEngineActor).options(**ON_HEAD)
        self.engines = [
            EngineClient(actor.remote(f"engine-{i}"), name=f"engine-{i}", sampling=SamplingSpec())
            for i in range(NUM_ENGINES)
        ]
        self._meeting = ray.remote(Meeting).options(**ON_HEAD).remote(NUM_RANKS)

    def stage(self, **settings: Any) -> MediaStage:
        """A media stage with a cache; Ray does not make its clips again by itself."""
        data = DataConfig(num_cpus=1.0, deadline_s=600.0, max_pixels=112 * 112, cache_gib=1.0)
        env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        options = {"max_retries": 0, **settings}
        return MediaStage(MediaSettings(data=data, model_path=self.model_path), env=env, **options)

    async def handles(self, stage: MediaStage) -> list[Any]:
        """Prepares all clips, or finds them in the stage's cache."""
        prepared = await asyncio.gather(*map(stage, self.records))
        assert not [p for p in prepared if isinstance(p, Failure)], prepared
        return [p[0] for p in prepared]  # pyright: ignore[reportIndexIssue]

    def producer(self, name: str, stage: MediaStage, *, lockstep: bool) -> GroupProducer:
        folder = self.folder / name
        folder.mkdir()

        async def generate(prompt: Prompt) -> Generation | Failure:
            return await self.engines[0].generate(prompt.media, seed=prompt.seed, **REQUEST)

        async def score(record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
            return [Score(total=0.0, breakdown={}) for _ in completions]

        return GroupProducer(
            stream=PromptStream(self.records, seed=1),
            prepare=stage,
            generate=generate,
            together=self._together if lockstep else None,
            score=score,
            ledger=Ledger(folder / "ledger.jsonl"),
            buffer=GroupBuffer(max_staleness=0),
            events=EventLog(folder / "events.jsonl"),
            seed=1,
            max_redraws=0,
        )

    async def _together(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        answers: list[Any] = list(prompts)
        shares = [prompts[i::NUM_ENGINES] for i in range(NUM_ENGINES)]
        calls = [
            engine.generate_together([p.media for p in share], seeds=[p.seed for p in share], **REQUEST)
            for engine, share in zip(self.engines, shares, strict=True)
        ]
        for i, generations in enumerate(await asyncio.gather(*calls)):
            answers[i::NUM_ENGINES] = generations
        return answers

    async def batch(self, producer: GroupProducer) -> list[Any]:
        """Draw, seed and tokens of each group of one batch."""
        producer.start(NUM_CLIPS)
        groups = await producer.batch(NUM_CLIPS, learner_version=0)
        tokens = [[s.completion.token_ids for s in g.samples] for g in groups]
        return [(g.prompt.draw.key, g.prompt.seed, t) for g, t in zip(groups, tokens, strict=True)]

    def ranks(self, stage: MediaStage) -> RankClients:
        actor = ray.remote(SmallRank).options(**ON_HEAD)
        handles = [actor.remote(rank=r, world_size=NUM_RANKS, meeting=self._meeting) for r in range(NUM_RANKS)]
        return RankClients(handles, prepare=stage, deadline_s=WAIT_S)

    def prompts(self, handles: Sequence[Any]) -> list[Prompt]:
        """Prompts of all clips, for the ranks."""
        return [
            Prompt(draw=replace(make_draw(), record=record), media=handle, num_prompt_tokens=9, seed=0)
            for record, handle in zip(self.records, handles, strict=True)
        ]


async def seen(handles: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*(handle.seen.remote() for handle in handles))


REQUEST: dict[str, Any] = {"sampling": SamplingSpec(), "group_size": 2, "deadline_s": WAIT_S}
_scenes: list[Scene] = []


def open_scene(folder: Path, model_path: str) -> None:
    """Starts a Ray of two nodes; its process may join no other."""
    _scenes.append(Scene(folder, model_path))


def close_scene() -> None:
    _scenes.pop().nodes.end()


def play() -> dict[str, dict[str, Any]]:
    """What each part of the scene finds once the node is lost that holds its clips."""
    return asyncio.run(_play(_scenes[0]))


async def _play(scene: Scene) -> dict[str, dict[str, Any]]:
    parts = {part.__name__: part(scene) for part in (lockstep, ranks, by_ray, alone, score, supervised)}
    # each part prepares its clips, and uses them when the node is lost
    for part in parts.values():
        await anext(part)
    scene.nodes.replace_node()
    return {name: await anext(part) for name, part in parts.items()}


Part = AsyncGenerator[dict[str, Any], None]


async def lockstep(scene: Scene) -> Part:
    """Two batches of two engines, after a batch of the same seeds that nothing disturbs."""
    undisturbed = await scene.batch(scene.producer("undisturbed", scene.stage(), lockstep=True))
    stage, engines = scene.stage(), [client.handle for client in scene.engines]
    places = get_object_locations(await scene.handles(stage))
    before = await seen(engines)
    yield {}
    producer = scene.producer("disturbed", stage, lockstep=True)
    disturbed, after = await scene.batch(producer), await seen(engines)
    await scene.batch(producer)
    yield {
        "batches": (undisturbed, disturbed),
        "failures": producer.ledger.failures,
        "engines": (before, after, await seen(engines)),
        "sizes": [place["object_size"] for place in places.values()],
        "places": [place["node_ids"] for place in places.values()],
        "driver": ray.get_runtime_context().get_node_id(),
    }


async def ranks(scene: Scene) -> Part:
    """Two steps of two ranks on the same clips."""
    stage = scene.stage()
    clients, needed = scene.ranks(stage), await scene.handles(stage)
    before = await seen(clients.handles)
    yield {}
    metrics = await clients.train([replace(make_group([0.0, 1.0]), prompt=p) for p in scene.prompts(needed)])
    after = await seen(clients.handles)
    await clients.train_sft(scene.prompts(await scene.handles(stage)), ["sad"] * NUM_CLIPS)
    yield {"metrics": metrics, "ranks": (before, after, await seen(clients.handles))}


async def supervised(scene: Scene) -> Part:
    """A supervised step of two ranks."""
    stage = scene.stage()
    clients, needed = scene.ranks(stage), await scene.handles(stage)
    yield {}
    metrics = await clients.train_sft(scene.prompts(needed), ["sad"] * NUM_CLIPS)
    yield {"metrics": metrics, "ranks": await seen(clients.handles)}


async def by_ray(scene: Scene) -> Part:
    """A clip that Ray makes again from its lineage."""
    prepared: Any = await scene.stage(max_retries=2)(scene.records[0])
    yield {}
    yield {"answer": await scene.engines[0].generate(prepared[0], seed=1, **REQUEST)}


async def alone(scene: Scene) -> Part:
    """Groups that an engine makes one by one."""
    stage, engine = scene.stage(), scene.engines[0].handle
    await scene.handles(stage)
    yield {}
    before = await seen([engine])
    groups = await scene.batch(scene.producer("alone", stage, lockstep=False))
    yield {"groups": groups, "engine": (before, await seen([engine]))}


async def score(scene: Scene) -> Part:
    """A score of an engine."""
    stage, pool = scene.stage(), cast(Any, SmallPool(scene.engines[0]))
    await stage(scene.records[0])
    yield {}
    scorer = LogprobScorer(pool, prepare=stage, encode=lambda _: [1], version=lambda: 0, donors=[])
    yield {"value": await scorer(scene.records[0], condition="av", prefix="", text="sad")}


class SmallPool:
    """A pool of one engine."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def score(self, media: Any, **request: Any) -> float | Failure:
        return await self._engine.score(media, deadline_s=WAIT_S, **request)
