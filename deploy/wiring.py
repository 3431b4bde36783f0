"""From a configuration to a running system: nobody else constructs actors.

Everything is owned by the driver and ends with it.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.config.load import dump_config
from common.config.run import OmniConfig
from common.errors import ClusterError
from common.media_ray import MediaSettings, MediaStage
from common.metrics import MetricsFile
from common.types import Record, SamplingSpec
from deploy.placement import placement_plan, require_room
from deploy.preflight import hold_run_folder, load_records, make_run_folder, resolve_model, set_results_aside
from deploy.progress import Progress
from learner.actor import LearnerRank, RankClients
from learner.ledger import Ledger
from learner.loop import LoopParts
from learner.publisher import Publisher
from learner.record import RunRecorder
from learner.stream import PromptStream
from reward.actor import RewardActor, RewardClient
from rollout.actor import EngineActor, EngineClient
from rollout.pool import RolloutPool

logger = logging.getLogger(__name__)
NAMESPACE = "omni-rlvr"


QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What the libraries would say on the screen is said here, or wrong."""


def start_ray() -> None:
    """Joins the cluster this process belongs to, or starts one of this machine's own size."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**options)
        return
    # With few cores Ray ends a decoding worker as soon as it idles, and the next one imports torch anew.
    keep_idle_workers = {"idle_worker_killing_time_threshold_ms": 600_000}
    ray.init(address="local", include_dashboard=False, _system_config=keep_idle_workers, **options)


def node_resources() -> dict[str, float]:
    """What the driver's node has: weights go through its shared memory, so everything runs there."""
    own = ray.get_runtime_context().get_node_id()
    nodes = cast(list[dict[str, Any]], ray.nodes())
    return next(node["Resources"] for node in nodes if node["NodeID"] == own)


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Places an actor where the driver is."""
    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)


def process_env(num_threads: int) -> dict[str, str]:
    """Environment of every process that computes."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "MKL_NUM_THREADS": str(num_threads),
        **QUIET,
    }


@asynccontextmanager
async def open_run(config: OmniConfig, progress: Progress) -> AsyncGenerator[LoopParts]:
    """Checks everything that can be checked, starts the actors, and ends them.

    Raises:
        UserError: before any engine starts.
    """
    os.environ |= {k: v for k, v in QUIET.items() if k not in os.environ}
    folder = make_run_folder(config)
    with hold_run_folder(folder):
        with progress.phase("model"):
            model_path = await asyncio.to_thread(resolve_model, config, folder)
        with progress.phase("corpus"):
            records = load_records(config, folder)
        with progress.phase("ray"):
            start_ray()
        require_room(placement_plan(config), node_resources())
        # only now that nothing of the user's stands in the way
        set_results_aside(folder)
        (folder / "samples").mkdir(mode=0o700)
        (folder / "config.yaml").write_text(dump_config(config))
        actors = _Actors()
        try:
            yield await _start(config, folder, model_path, records, actors, progress)
        finally:
            await actors.stop()


async def _start(
    config: OmniConfig,
    folder: Path,
    model_path: str,
    records: list[Record],
    actors: "_Actors",
    progress: Progress,
) -> LoopParts:
    sampling = SamplingSpec(**config.rollout.sampling.model_dump())
    prepare = MediaStage(
        MediaSettings(data=config.data, model_path=model_path),
        env=process_env(1),
    )
    async with _starting(config, progress, "engines and ranks"):
        engines = start_engines(config, model_path, actors)
        ranks, info = await start_ranks(config, model_path, actors)
    async with _starting(config, progress, "warm-up"):
        longest, *probes = await prepare.references(
            question=records[0].question,
            max_prompt_tokens=config.rollout.max_model_len - sampling.max_tokens,
        )
        await asyncio.gather(*(e.warm_up([longest, *probes]) for e in engines))
    publisher = Publisher(
        senders=ranks,
        engines=engines,
        plan=info["plan"],
        segments=info["segments"],
        probes=probes,
        sampling=sampling,
        config=config.learner.publish,
        dtype=config.model.dtype,
    )
    with progress.phase("rehearsal"):
        await publisher.start()
    return LoopParts(
        stream=PromptStream(records, seed=config.run.seed),
        prepare=prepare,
        generate=RolloutPool(
            engines,
            sampling=sampling,
            group_size=config.rollout.group_size,
            deadline_s=config.rollout.deadline_s,
        ),
        score=RewardClient(start_reward(config, actors), deadline_s=config.reward.deadline_s),
        train=ranks.train,
        publisher=publisher,
        ledger=Ledger(folder / "ledger.jsonl"),
        record=RunRecorder(folder, metrics=MetricsFile(folder / "metrics.jsonl"), progress=progress),
        seed=config.run.seed,
        groups_per_step=config.learner.groups_per_step,
    )


@asynccontextmanager
async def _starting(config: OmniConfig, progress: Progress, phase: str) -> AsyncGenerator[None]:
    deadline_s = config.run.start_deadline_s
    try:
        with progress.phase(phase):
            async with asyncio.timeout(deadline_s):
                yield
    except TimeoutError as error:
        raise ClusterError(
            f"{phase} must be up within run.start_deadline_s={deadline_s:g} s, and were not; the cluster may be "
            "busy with other work: see `ray status`"
        ) from error


def start_engines(config: OmniConfig, model_path: str, actors: "_Actors") -> list[EngineClient]:
    """The rollout engines, still starting."""
    settings = config.rollout
    env = process_env(settings.num_threads) | {
        # nobody else divides the cores here; vLLM's own binding would take them all
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    clients: list[EngineClient] = []
    for index in range(settings.num_engines):
        name = f"engine-{index}"
        handle = (
            ray.remote(EngineActor)
            .options(
                num_cpus=settings.num_cpus,
                num_gpus=settings.num_gpus,
                scheduling_strategy=on_this_node(),
                runtime_env={"env_vars": env},
            )
            .remote(name=name, model_path=model_path, config=settings, dtype=config.model.dtype)
        )
        actors.engines.append(handle)
        clients.append(EngineClient(handle, name=name, sampling=SamplingSpec(**settings.sampling.model_dump())))
    return clients


async def start_ranks(config: OmniConfig, model_path: str, actors: "_Actors") -> tuple[RankClients, dict[str, Any]]:
    """The learner ranks, joined and loaded; what rank 0 says of the publish plan."""
    settings = config.learner
    env = process_env(settings.num_threads) | ({} if settings.num_gpus else {"DS_ACCELERATOR": "cpu"})
    actor: Any = ray.remote(LearnerRank).options(
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        scheduling_strategy=on_this_node(),
        runtime_env={"env_vars": env},
    )
    handles = [actor.remote(rank=r, world_size=settings.num_ranks) for r in range(settings.num_ranks)]
    actors.ranks += handles
    ranks = RankClients(handles, deadline_s=settings.deadline_s)
    info = await ranks.start(
        config=settings,
        model_path=model_path,
        dtype=config.model.dtype,
        pad_token_id=_pad_token_id(model_path),
        temperature=config.rollout.sampling.temperature,
        max_tokens=config.rollout.sampling.max_tokens,
        seed=config.run.seed,
    )
    actors.segments += info["segments"]
    return ranks, info


def start_reward(config: OmniConfig, actors: "_Actors") -> Any:
    """The reward service."""
    # scoring again is harmless: a call that the service's death cut off is made anew
    options: Any = {"num_cpus": config.reward.num_cpus, "max_restarts": 3, "max_task_retries": 2}
    handle: Any = ray.remote(RewardActor).options(**options).remote(config=config.reward)
    actors.others.append(handle)
    return handle


def _pad_token_id(model_path: str) -> int:
    """Any token does: padding is masked; but it must lie in the vocabulary."""
    config = json.loads((Path(model_path) / "config.json").read_text())
    return config.get("pad_token_id") or 0


class _Actors:
    """Handles of everything that must be ended."""

    def __init__(self) -> None:
        self.engines: list[Any] = []
        self.ranks: list[Any] = []
        self.others: list[Any] = []
        self.segments: list[str] = []

    async def stop(self) -> None:
        """Lets engines and ranks release what they hold, then ends every actor."""
        farewells = [e.shutdown.remote() for e in self.engines] + [r.close.remote() for r in self.ranks]
        if farewells:
            await asyncio.to_thread(cast(Any, ray.wait), farewells, num_returns=len(farewells), timeout=20)
        for handle in [*self.engines, *self.ranks, *self.others]:
            ray.kill(handle)
        for path in self.segments:
            # a rank that was busy when it was killed could not
            await asyncio.to_thread(Path(path).unlink, missing_ok=True)
