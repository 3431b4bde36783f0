"""Translation between the messages of our processes and vLLM's arguments and outputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from common.config.rollout import RolloutConfig
from common.errors import EngineError
from common.types import Completion, SamplingSpec, VersionSpan
from rollout.engine_stats import Step
from rollout.weights import BACKEND


def engine_args(*, model_path: str, config: RolloutConfig, dtype: str) -> AsyncEngineArgs:
    return AsyncEngineArgs(
        model=model_path,
        dtype=cast(Any, dtype),
        trust_remote_code=False,
        enforce_eager=config.enforce_eager,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        # a seeded request whose prefill is split kills vLLM's CPU engine
        max_num_batched_tokens=max(config.max_num_batched_tokens, config.max_model_len),
        enable_chunked_prefill=False,
        enable_prefix_caching=True,
        kv_cache_memory_bytes=None if config.kv_cache_gib is None else int(config.kv_cache_gib * 2**30),
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel_size,
        # after temperature and truncation: the distribution from which the token was sampled
        logprobs_mode="processed_logprobs",
        # no processor runs in the engine
        mm_processor_cache_gb=0,
        skip_mm_profiling=True,
        limit_mm_per_prompt={"video": 1, "audio": 1, "image": 0},
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        seed=0,
        # without them admission would stand still
        disable_log_stats=False,
    )


class StepLogger(StatLoggerBase):
    """Passes the statistics of each step of vLLM on, in the process and event loop of `AsyncLLM`."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0, *, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        # outputs of aborted requests come without a step
        if scheduler_stats is not None:
            step = Step(
                num_running=scheduler_stats.num_running_reqs,
                num_waiting=scheduler_stats.num_waiting_reqs,
                kv_use=scheduler_stats.kv_cache_usage,
                num_preempted=iteration_stats.num_preempted_reqs if iteration_stats else 0,
            )
            self._on_step(step)

    def log_engine_initialized(self) -> None:
        """Does nothing."""


def sampling_params(sampling: SamplingSpec, *, group_size: int, seed: int) -> SamplingParams:
    return SamplingParams(
        n=group_size,
        seed=seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_special_tokens=True,
    )


def scoring_params() -> SamplingParams:
    """Sampling parameters that score a prompt's own tokens: one token is sampled after them and discarded.

    vLLM computes the log-probabilities of prompt tokens at temperature 1 without truncation, whatever the sampling
    parameters, and uses no cached prefix for them. The greedy choice draws no random number.
    """
    return SamplingParams(
        temperature=0.0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False
    )


def logprob_of(output: RequestOutput, token_ids: Sequence[int]) -> float:
    """The log-probability of the last tokens of a scored prompt, in nats; raises `EngineError` if some lack one."""
    steps = cast(Sequence[Mapping[int, Logprob] | None], output.prompt_logprobs or [])[-len(token_ids) :]
    scored = zip(steps, token_ids, strict=False)
    logprobs = [step[token].logprob for step, token in scored if step and token in step]
    if len(logprobs) != len(token_ids):
        raise EngineError(f"an engine must score all {len(token_ids)} tokens, got {len(logprobs)} of them")
    return math.fsum(logprobs)


def completion_of(output: CompletionOutput) -> Completion:
    assert output.logprobs is not None
    ids = tuple(output.token_ids)
    logprobs = cast(Sequence[Mapping[int, Logprob]], output.logprobs)
    return Completion(
        token_ids=ids,
        rollout_logprobs=tuple(step[token].logprob for step, token in zip(logprobs, ids, strict=True)),
        text=output.text,
        finish_reason=output.finish_reason if output.finish_reason in ("stop", "length") else "abort",
        version_spans=tuple(
            VersionSpan(version=int(span.version), start=span.start, end=span.end)
            for span in output.weight_versions or ()
        ),
    )
