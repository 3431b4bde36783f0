"""Engines and ranks for tests: the product's own actors, with handles to break them from outside."""

import asyncio
import hashlib
import os
import time
from typing import Any

import ray
import torch

import rollout.weights
from common.config.learner import LearnerConfig
from common.config.rollout import RolloutConfig
from common.types import SamplingSpec, TensorReceipt
from deploy.wiring import process_env
from learner.actor import LearnerRank, RankClients
from rollout.actor import CONCURRENCY_GROUPS, EngineActor, EngineClient
from rollout.translation import sampling_params

SAMPLING = SamplingSpec(temperature=1.0, max_tokens=24)
ENGINE = RolloutConfig(max_model_len=1024, max_num_seqs=32, kv_cache_gib=0.25)
ENGINE_ENV = process_env(1) | {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
RANK_ENV = process_env(1) | {"DS_ACCELERATOR": "cpu"}


class BreakableWorker(rollout.weights.ReceiptExtension):
    """vLLM's worker with the tied head's repacking on a switch, and a record of what the model was fed."""

    def set_repacking(self, enabled: bool) -> None:
        """Off, a tied head is not packed again after a publish.

        In bfloat16 the CPU kernel may read the matrix itself, so that nothing goes stale: there the head is
        given a copy of the old matrix, which is what packing leaves on other processors.
        """
        original = _originals.setdefault("repack", rollout.weights.repack_tied_heads)
        head = self.model_runner.get_model().language_model.lm_head
        if enabled:
            rollout.weights.repack_tied_heads = original
        elif head.weight.dtype == torch.float32:
            rollout.weights.repack_tied_heads = lambda model: None
        else:
            old = head.weight.detach().clone()

            def keep_old(model: torch.nn.Module) -> None:
                head.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, old, bias)

            rollout.weights.repack_tied_heads = keep_old

    def hold(self, names: list[str]) -> None:
        """From the publish after next, these tensors arrive, are acknowledged, and are loaded as they last were."""
        model = self.model_runner.get_model()
        original = _originals.setdefault("load", model.load_weights)
        held: dict[str, torch.Tensor] = {}

        def holding(weights: Any) -> Any:
            return original(
                (name, held.setdefault(name, tensor.clone()) if name in names else tensor)
                for name, tensor in weights
            )

        model.load_weights = holding if names else original

    def record_media(self) -> None:
        """From now on, hashes of the tensors that reach the model's towers are kept."""
        model = self.model_runner.get_model()
        seen: list[str] = []
        _originals["seen"] = seen
        original = _originals.setdefault("embed", model.embed_multimodal)

        def recording(**kwargs: Any) -> Any:
            seen.extend(tensor_hash(v) for v in kwargs.values() if isinstance(v, torch.Tensor))
            return original(**kwargs)

        model.embed_multimodal = recording

    def recorded_media(self) -> list[str]:
        """Hashes since `record_media`."""
        return list(_originals["seen"])


_originals: dict[str, Any] = {}


def tensor_hash(tensor: torch.Tensor) -> str:
    """Of dtype and values; the batch dimension that vLLM adds or drops does not count."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return f"{flat.dtype}:{hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()}"


class BreakableEngine(EngineActor):
    """An engine whose cache identities can be frozen, and whose workers can be told things."""

    def freeze_identity(self, what: str | None) -> None:
        """`tower` or `weights`: that identity stays as it is whatever is published; None mends it."""
        self._frozen = (what, self._engine._tower_id, self._engine._weights_id)

    async def finish_update(self, **identity: Any) -> list[TensorReceipt]:
        what, tower_id, weights_id = getattr(self, "_frozen", (None, "", ""))
        if what == "tower":
            identity["tower_id"] = tower_id
        if what == "weights":
            identity["weights_id"] = weights_id
        return await super().finish_update(**identity)

    async def call_workers(self, method: str, *args: Any) -> list[Any]:
        """Calls the worker extension."""
        return await self._engine.call_workers(method, *args)

    async def direct_rate(self, prompts: list[Any], *, sampling: Any, group_size: int, seed: int) -> float:
        """Completion tokens per second of `AsyncLLM` called here, with no Ray call per group."""
        llm = self._engine._llm
        inputs = [self._engine._engine_input(p, cache_salt=f"direct-{seed}", tower_version="0") for p in prompts]

        async def one(index: int, request: Any) -> int:
            params = sampling_params(sampling, group_size=group_size, seed=seed + 64 * index)
            async for output in llm.generate(request, params, f"direct-{seed}-{index}"):
                final = output
            return sum(len(c.token_ids) for c in final.outputs)

        start = time.perf_counter()
        counts = await asyncio.gather(*(one(i, r) for i, r in enumerate(inputs)))
        return sum(counts) / (time.perf_counter() - start)

    @ray.method(concurrency_group="control")
    async def num_unfinished(self) -> int:
        """Requests that vLLM has not answered."""
        return self._engine._llm.output_processor.get_num_unfinished_requests()

    async def pid(self) -> int:
        """Of the actor's process."""
        return os.getpid()

    async def versions(self) -> tuple[int, str]:
        """The policy version by the engine's count, and as vLLM has it."""
        return self._engine._version, await self._engine._llm.get_weight_version()

    async def is_paused(self) -> bool:
        """What vLLM says."""
        return await self._engine._llm.is_paused()


class BreakableRank(LearnerRank):
    """A rank whose sender can be broken."""

    def break_sender(self, how: str, name: str = "") -> None:
        """`skip`: a tensor is left out; `half`: only one tensor of a layer is sent; `cut`: the bucket's border
        runs through a layer; `mend`: as before."""
        import dataclasses

        sender, source = self._engine.sender, self._engine.source
        if how == "mend":
            source.whole = self._whole
            sender.plan = self._plan
            return
        self._whole, self._plan = source.whole, sender.plan
        if how == "skip":
            whole = self._whole
            source.whole = lambda names: whole([n for n in names if n != name])
        elif how == "half":
            layer = next(layer for layer in sender.plan.layers if name in layer)
            gone = set(layer) - {name}
            buckets = tuple(tuple(n for n in b if n not in gone) for b in sender.plan.buckets)
            sender.plan = dataclasses.replace(sender.plan, buckets=buckets)
        elif how == "cut":
            names = sender.plan.names
            border = names.index(name) + 1
            sender.plan = dataclasses.replace(sender.plan, buckets=(names[:border], names[border:]))

    def current_plan(self) -> Any:
        """The plan as it is now, broken or not."""
        return self._engine.sender.plan

    def take_tiny_step(self, lr: float) -> None:
        """Moves every parameter by about what one AdamW step of this learning rate would."""
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            for parameter in self._engine._module.parameters():
                step = torch.randn(parameter.shape, generator=generator).sign() * lr
                parameter.add_(step.to(parameter.dtype))

    def environment(self) -> dict[str, str]:
        """For assertions about threads."""
        return dict(os.environ)


def start_engine(
    model_path: str,
    *,
    dtype: str = "float32",
    name: str = "engine-0",
    config: RolloutConfig = ENGINE,
    actor: type[BreakableEngine] = BreakableEngine,
    max_concurrency: int = 1000,
    answer_deadline_s: float = 30.0,
) -> EngineClient:
    """A breakable engine, still starting; it runs `max_concurrency` requests at a time."""
    handle: Any = (
        ray.remote(concurrency_groups=CONCURRENCY_GROUPS, max_concurrency=max_concurrency)(actor)
        .options(num_cpus=0.2, runtime_env={"env_vars": ENGINE_ENV})
        .remote(
            name=name,
            model_path=model_path,
            config=config,
            dtype=dtype,
            worker_extension="tests.support.engines.BreakableWorker",
        )
    )
    return EngineClient(handle, name=name, sampling=SAMPLING, answer_deadline_s=answer_deadline_s)


def start_ranks(
    model_path: str, *, config: LearnerConfig | None = None, dtype: str = "float32"
) -> tuple[RankClients, dict[str, Any]]:
    """Breakable ranks, loaded; and what rank 0 said of the plan."""
    config = config or LearnerConfig()
    actor: Any = ray.remote(BreakableRank).options(num_cpus=0.2, runtime_env={"env_vars": RANK_ENV})
    handles = [actor.remote(rank=r, world_size=config.num_ranks) for r in range(config.num_ranks)]
    master = ray.get(handles[0].address.remote())
    infos = ray.get(
        [
            h.start.remote(
                master=master,
                config=config,
                model_path=model_path,
                reference_path=None,
                dtype=dtype,
                pad_token_id=0,
                temperature=SAMPLING.temperature,
                max_tokens=SAMPLING.max_tokens,
                seed=0,
            )
            for h in handles
        ]
    )
    return RankClients(handles), infos[0]


def stop_ranks(ranks: RankClients) -> None:
    """Releases segments and processes."""
    ray.get([h.close.remote() for h in ranks.handles])
    for handle in ranks.handles:
        ray.kill(handle)
