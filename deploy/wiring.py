"""Makes the actors of a run from its configuration; no other module constructs actors.

The driver owns all actors. Each `open_...` starts actors and ends them with its block.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.config.learner import LearnerConfig
from common.config.rollout import RolloutConfig
from common.config.run import OmniConfig
from common.errors import ClusterError
from common.node_agent_actor import COPY_GROUPS, NodeAgent, NodeAgents, agent_options
from common.prompts.preparation_ray import MediaSettings, MediaStage
from common.runtime import provenance
from common.runtime.engine_processes import ENGINE_VARIABLE
from common.types import ProcessedPrompt, SamplingSpec
from deploy.checks.machine import free_memory_bytes
from deploy.checks.memory_plan import engine_cache_bytes, model_sizes, require_free_memory
from deploy.checks.placement import place_engines, placement_plan
from deploy.checks.preflight import Corpora, check_inputs, load_corpora, resolve_model, with_steps
from deploy.control_actor import ControlActor
from deploy.engine_host import MakeEngineFn, RayEngineHost
from deploy.interrupt import Interrupts
from deploy.reporting.progress import Progress
from deploy.run_folder import hold_run_folder, make_run_folder, require_same_settings, take_up
from learner.actor import LearnerRank, RankClients
from learner.records.event_log import EventLog
from reward.actor import GRACE_S, RewardActor, RewardClient
from rollout.actor import CONCURRENCY_GROUPS, EngineActor
from rollout.fleet.dispatcher import Request
from rollout.fleet.fleet import EngineEvent, Fleet
from rollout.fleet.lifecycle import State

logger = logging.getLogger(__name__)
NAMESPACE = "omni-rlvr"
FAREWELL_S = 20.0
"""Seconds that actors get to release what they hold."""
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment that silences library output that the run replaces or that does not apply to it."""


NAME_WAIT_S = 60.0
"""Seconds in which a cluster ends the actors of a driver that has died, with its node or without."""
ANSWER_S = 10.0
"""Seconds after which the actor of a name whose run lives answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """State that all stages of a run share."""

    config: OmniConfig
    folder: Path
    model_path: str
    """Checkpoint of the untrained policy."""
    corpora: Corpora
    prepare: MediaStage
    progress: Progress
    interrupts: Interrupts
    agents: NodeAgents

    async def references(self) -> list[ProcessedPrompt]:
        """The longest prompt within the limits, and the prompts of the probe."""
        rollout = self.config.rollout
        return await self.prepare.references(
            question=self.corpora.train[0].question,
            max_prompt_tokens=rollout.max_model_len - rollout.sampling.max_tokens,
        )


async def require_same_sources(*processes: RankClients | RewardClient) -> None:
    """Raises `ClusterError` if an actor runs other sources than the driver, with the first file that differs."""
    ours = provenance.sources()
    for process in processes:
        for who, theirs in (await process.sources()).items():
            provenance.require_same_sources(ours, theirs, who=who)


def start_ray() -> None:
    """Joins the cluster of this process, or starts one on this machine."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" not in os.environ:
        # With few cores Ray ends a decoding worker as soon as it idles, and the next one imports torch again.
        keep_idle_workers = {"idle_worker_killing_time_threshold_ms": 600_000}
        options |= {"address": "local", "include_dashboard": False, "_system_config": keep_idle_workers}
    ray.init(**options)


@asynccontextmanager
async def hold_run_name(config: OmniConfig, folder: Path) -> AsyncGenerator[None]:
    """Takes the run's name on this cluster for the block; the driver's end frees it.

    Raises:
        ClusterError: another run has the name, whatever its folder.
    """
    options: Any = {"name": f"control-{config.run.name}", "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1}
    deadline_s = asyncio.get_running_loop().time() + NAME_WAIT_S
    while True:
        try:
            handle: Any = ray.remote(ControlActor).options(**options).remote(str(folder))
            break
        except ValueError:  # Ray's error for a name that is taken
            await asyncio.sleep(ANSWER_S)
            holder = await _folder_of(options["name"])
            if holder is not None or asyncio.get_running_loop().time() > deadline_s:
                raise ClusterError(
                    f"run.name must be free on this cluster, got {config.run.name!r}, which a run in "
                    f"{holder or 'an unknown folder'} has; choose another name, or let that run end"
                ) from None
    try:
        yield
    finally:
        ray.kill(handle)


async def _folder_of(name: str) -> str | None:
    """The folder of the run that has a name; None if it does not answer."""
    try:
        holder = cast(Any, ray.get_actor(name, namespace=NAMESPACE))
        async with asyncio.timeout(ANSWER_S):
            return await holder.folder.remote()
    except (RayError, ValueError, TimeoutError):
        return None


def driver_node() -> str:
    """The driver's node: the ranks run there, and their weights pass through its shared memory."""
    return ray.get_runtime_context().get_node_id()


def node_resources() -> dict[str, dict[str, float]]:
    """Resources of each node, by its id."""
    nodes = cast(list[dict[str, Any]], ray.nodes())
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def process_env(num_threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(num_threads), "MKL_NUM_THREADS": str(num_threads), **QUIET}


@asynccontextmanager
async def open_run(config: OmniConfig, progress: Progress, *, has_engines: bool = True) -> AsyncGenerator[Run]:
    """Checks the inputs, locks the run folder, and starts Ray; raises `UserError` before any actor starts."""
    os.environ |= {k: v for k, v in QUIET.items() if k not in os.environ}
    inputs = check_inputs(config)
    folder = make_run_folder(config)
    interrupts = Interrupts(progress.say)
    progress.when_unread(interrupts.stopper())
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_run_folder(folder))
        if config.run.resume != "never":
            require_same_settings(folder, config)
        with progress.phase("model"):
            model_path = await asyncio.to_thread(resolve_model, config, folder)
        with progress.bar("corpus") as update:
            corpora = await asyncio.to_thread(load_corpora, config, folder, on_clip=update, read=inputs)
        for line in corpora.left_out:
            progress.say(f"warning: {line}")
        with progress.phase("ray"):
            start_ray()
        await stack.enter_async_context(hold_run_name(config, folder))
        nodes = place_engines(placement_plan(config), driver=driver_node(), nodes=node_resources())
        if has_engines:
            # the memory of other nodes is unknown here
            num_engines, sizes = nodes.count(driver_node()), model_sizes(Path(model_path))
            require_free_memory(config, sizes, num_engines=num_engines, free_bytes=free_memory_bytes())
        # all checks of the user's input are above: nothing is set aside for a run that cannot start
        take_up(folder, config)
        config = with_steps(config, corpora)
        for name, stage in (("sft", config.sft), ("learner", config.learner)):
            if stage.epochs is not None:
                progress.say(f"{name}.epochs={stage.epochs:g} makes {stage.steps} steps")
        interrupts.install()
        if config.uses_gpus:
            progress.say("warning: no GPU has run this yet; docs/gpu-status.md lists the untested parts")
        agents = NodeAgents(_node_agent, deadline_s=config.rollout.answer_deadline_s)
        stack.push_async_callback(agents.close)
        yield Run(
            config=config,
            folder=folder,
            model_path=model_path,
            corpora=corpora,
            prepare=MediaStage(MediaSettings(data=config.data, model_path=model_path), env=process_env(1)),
            progress=progress,
            interrupts=interrupts,
            agents=agents,
        )


def _node_agent(node: str) -> Any:
    agent: Any = cast(Any, ray.remote)(concurrency_groups=COPY_GROUPS)(NodeAgent)
    return agent.options(**agent_options(node)).remote()


@asynccontextmanager
async def open_fleet(
    run: Run,
    model_path: str,
    *,
    version: int = 0,
    is_static: bool = False,
    events: EventLog | None = None,
) -> AsyncGenerator[tuple[Fleet, RayEngineHost]]:
    """Starts the rollout engines on a checkpoint of a policy version, and replaces those that are lost.

    With `is_static` nothing is published: engines serve the checkpoint. `events` gets a line per transition.
    """
    config = run.config
    cache = engine_cache_bytes(config, model_sizes(Path(model_path)))
    settings = config.rollout.model_copy(update={"kv_cache_gib": None if cache is None else cache / 2**30})
    host = RayEngineHost(
        _engine_actors(run, settings),
        model_path=model_path,
        config=settings,
        sampling=sampling_of(config),
        warm_up_prompts=run.references,
        agents=run.agents,
        version=version,
    )
    fleet = Fleet(
        host,
        slots=[f"engine-{index}" for index in range(settings.num_engines)],
        min_engines=settings.num_engines if config.is_deterministic else settings.min_engines,
        version=version,
        max_sequences=2 * settings.max_num_seqs,
        start_deadline_s=config.run.start_deadline_s,
        is_static=is_static,
        notify=_notifier(run, events),
        resubmitted=_resubmission(events),
    )
    async with fleet:
        yield fleet, host


def _engine_actors(run: Run, settings: RolloutConfig) -> MakeEngineFn:
    """A function that requests the actor of an engine, on the node of its slot while that lives."""
    env = process_env(settings.num_threads) | {
        # vLLM's own binding would take all cores of the machine
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    actor: Any = cast(Any, ray.remote)(concurrency_groups=CONCURRENCY_GROUPS)(EngineActor)
    nodes = place_engines(placement_plan(run.config), driver=driver_node(), nodes=node_resources())
    for index, node in enumerate(nodes):
        if node != driver_node():
            run.progress.say(f"engine-{index} runs on node {node[:8]}; its weights go there over the network")

    def make(slot: str, token: str, model_path: str, version: int) -> Any:
        node = nodes[int(slot.rpartition("-")[2])]
        # the node of a slot may be gone: then any node with room
        options: dict[str, Any] = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus}
        if node in node_resources():
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        options["runtime_env"] = {"env_vars": env | {ENGINE_VARIABLE: token}}
        return actor.options(**options).remote(
            name=slot, model_path=model_path, config=settings, dtype=run.config.model.dtype, version=version
        )

    return make


def _notifier(run: Run, events: EventLog | None) -> Callable[[EngineEvent], None]:
    """Writes the transitions of engines, and reports those that are lost."""

    def notify(event: EngineEvent) -> None:
        if events is not None:
            events.write(event="engine", **asdict(event))
        if event.state == State.CONDEMNED and event.reason:
            run.progress.say(f"{event.engine} is lost and replaced: {event.reason}")

    return notify


def _resubmission(events: EventLog | None) -> Callable[[Request, str], None]:
    def write(request: Request, engine: str) -> None:
        if events is not None:
            events.write(event="resubmitted", draw=request.label, engine=engine, losses=request.num_losses)

    return write


@asynccontextmanager
async def open_ranks(
    run: Run, model_path: str, *, learner: LearnerConfig, reference_path: str
) -> AsyncGenerator[tuple[RankClients, dict[str, Any]]]:
    """Starts the learner ranks; also yields rank 0's publish plan and segments."""
    config, architecture = run.config, json.loads((Path(model_path) / "config.json").read_text())
    env = process_env(learner.num_threads) | ({} if learner.num_gpus else {"DS_ACCELERATOR": "cpu"})
    actor: Any = ray.remote(LearnerRank).options(
        num_cpus=learner.num_cpus,
        num_gpus=learner.num_gpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(driver_node(), soft=False),
        runtime_env={"env_vars": env},
    )
    handles = [actor.remote(rank=r, world_size=learner.num_ranks) for r in range(learner.num_ranks)]
    segments: list[str] = []
    try:
        ranks = RankClients(handles, prepare=run.prepare, deadline_s=learner.deadline_s)
        info = await ranks.start(
            config=learner,
            model_path=model_path,
            reference_path=reference_path,
            # the policy's own checkpoint may be pruned during the run
            source_path=run.model_path,
            dtype=config.model.dtype,
            # padding is masked: any token works
            pad_token_id=architecture.get("pad_token_id") or 0,
            temperature=config.rollout.sampling.temperature,
            max_tokens=config.rollout.sampling.max_tokens,
            seed=config.run.seed,
        )
        segments += info["segments"]
        await require_same_sources(ranks)
        yield ranks, info
    finally:
        await _end(handles, [handle.close.remote() for handle in handles])
        for path in segments:
            # a rank that was killed while it was busy has not removed its segments
            await asyncio.to_thread(Path(path).unlink, missing_ok=True)


@asynccontextmanager
async def open_reward(run: Run) -> AsyncGenerator[RewardClient]:
    config = run.config.reward
    # scoring twice is harmless: Ray repeats a call that the service's death interrupted
    options: Any = {"num_cpus": config.num_cpus, "max_restarts": -1, "max_task_retries": 2}
    handle: Any = ray.remote(RewardActor).options(**options).remote(config=config)
    try:
        client = RewardClient(
            handle,
            deadline_s=config.deadline_s + GRACE_S,
            max_concurrency=config.max_concurrency,
            max_retries=config.max_retries,
        )
        await require_same_sources(client)
        for decision in await client.decisions():
            run.progress.say(decision)
        yield client
    finally:
        ray.kill(handle)


@asynccontextmanager
async def starting(run: Run, phase: str) -> AsyncGenerator[None]:
    """A phase of the start; raises `ClusterError` after its deadline."""
    deadline_s = run.config.run.start_deadline_s
    try:
        with run.progress.phase(phase):
            async with asyncio.timeout(deadline_s):
                yield
    except TimeoutError as error:
        raise ClusterError(
            f"{phase} must be up within run.start_deadline_s={deadline_s:g} s, and were not; the cluster may be "
            "busy with other work: see `ray status`"
        ) from error


def sampling_of(config: OmniConfig) -> SamplingSpec:
    return SamplingSpec(**config.rollout.sampling.model_dump())


async def _end(handles: Sequence[Any], farewells: Sequence[Any]) -> None:
    await asyncio.to_thread(cast(Any, ray.wait), list(farewells), num_returns=len(farewells), timeout=FAREWELL_S)
    for handle in handles:
        ray.kill(handle)
