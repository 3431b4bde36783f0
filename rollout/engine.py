"""One vLLM engine: prompts in, groups of completions out, weights received in between.

Plain Python around `AsyncLLM`, without Ray. Requests of one prompt share its prefill (`n = group_size`).
"""

import asyncio
import dataclasses
import functools
import importlib
import itertools
import os
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar, cast

from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestOutputCollector

from common.config.rollout import RolloutConfig
from common.errors import EngineError, EngineStartError
from common.models.registry import family_of
from common.types import Failure, Generation, ProcessedPrompt, SamplingSpec, TensorReceipt
from rollout.admission import NUM_PROBE_PLACES, WAITING_DEADLINES, Admission
from rollout.engine_stats import EngineStats, Step, StepCounter
from rollout.failure import FailureFile, cause_of, is_kill
from rollout.translation import StepLogger, completion_of, engine_args, logprob_of, sampling_params, scoring_params

T = TypeVar("T")
POLL_S = 0.2
"""Seconds between two looks whether vLLM's core lives, while a call is outstanding."""


class RolloutEngine:
    """An `AsyncLLM` and the identity of its weights.

    `warm_up` must end before the first request. vLLM itself holds the paused state and the open update. This class
    holds the policy version and the identities of the weights and of the towers, which `finish_update` replaces.
    These identities key all entries of vLLM's caches, so a publish clears no cache.

    Outside lockstep a request waits for admission, in order, until vLLM has room for its sequences; probes do not.
    """

    def __init__(
        self,
        *,
        name: str,
        model_path: str,
        config: RolloutConfig,
        dtype: str,
        version: int = 0,
        worker_extension: str = "rollout.weights.ReceiptExtension",
    ) -> None:
        """Starts vLLM's processes, which takes half a minute on CPU; `version` is the checkpoint's policy version.

        Raises:
            EngineStartError: names the cause that kept a process of vLLM from starting.
        """
        self.name = name
        self.config = config
        self._version = version
        # unlike the version, unique for every publish and rehearsal
        self._weights_id = "0"
        self._tower_id = "0"
        self._lockstep = asyncio.Lock()
        self._request_ids = itertools.count()
        self._engine_input = importlib.import_module(f"rollout.models.{family_of(model_path).name}").engine_input
        self._failures = FailureFile()
        self._steps = StepCounter()
        self._admission = Admission(
            max_sequences=config.max_num_seqs - NUM_PROBE_PLACES,
            min_sequences=config.group_size,
            count=self._num_unfinished,
        )
        # it would override the configured cache size
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
        args = engine_args(model_path=model_path, config=config, dtype=dtype)
        args.worker_extension_cls = worker_extension
        try:
            self._llm = AsyncLLM.from_engine_args(
                args, stat_loggers=[functools.partial(StepLogger, on_step=self._stepped)]
            )
        except Exception as error:  # vLLM has no base class for its errors
            raise self.start_error(error) from error

    def start_error(self, error: Exception) -> EngineStartError:
        """The error of a start that failed, with the cause that vLLM's processes recorded."""
        cause = self.failure()
        text = f"engine {self.name} could not start: {cause or cause_of(error)}"
        return EngineStartError(text, is_killed=is_kill(cause))

    async def warm_up(self, prompts: list[ProcessedPrompt], sampling: SamplingSpec) -> None:
        """Sets the version, and generates for every prompt and for a full batch of the first, the longest."""
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info={}))
        await self._llm.update_weight_version(str(self._version))
        generate = functools.partial(
            self.generate, sampling=sampling, group_size=1, deadline_s=3600.0, is_probe=True
        )
        results = [await generate(prompt, seed=0) for prompt in prompts]
        results += await asyncio.gather(*(generate(prompts[0], seed=i) for i in range(self.config.max_num_seqs)))
        for result in results:
            if isinstance(result, Failure):
                raise RuntimeError(f"engine {self.name}: warm-up failed: {result.reason}: {result.detail}")

    async def generate(
        self,
        prompt: ProcessedPrompt,
        *,
        sampling: SamplingSpec,
        group_size: int,
        seed: int,
        deadline_s: float,
        is_probe: bool = False,
    ) -> Generation | Failure:
        """Samples `group_size` completions of one prompt in one request; completion i samples with `seed + i`.

        Args:
            deadline_s: seconds from the admission. The wait for it ends after `WAITING_DEADLINES` times as many.
            is_probe: it is submitted at once, before requests that wait for admission.

        Returns:
            The completions in order, or a failure `too-long` or `deadline`; the request is aborted after
                `deadline_s`.

        Raises:
            EngineDeadError: vLLM's core process ended.
        """
        too_long = self._too_long(len(prompt.prompt_token_ids), sampling.max_tokens)
        if too_long is not None:
            return too_long
        params = sampling_params(sampling, group_size=group_size, seed=seed)
        if is_probe:
            version = self._version
            return self._generation(await self._within(deadline_s, self._complete(prompt, params)), version)
        output, version = await self._complete_in_turn(prompt, params, deadline_s=deadline_s)
        return self._generation(output, version)

    async def generate_together(
        self,
        prompts: Sequence[ProcessedPrompt],
        *,
        sampling: SamplingSpec,
        group_size: int,
        seeds: Sequence[int],
        deadline_s: float,
    ) -> list[Generation | Failure]:
        """Samples groups in lockstep: the same prompts, seeds and weights give the same bits.

        The last bits of vLLM's values depend on the other sequences of a batch and on cached prefixes. So the
        engine is paused, caches are emptied, and all requests are queued in order; then all start together. Nothing
        else may be in flight.

        Returns:
            One answer per prompt, as `generate` returns it.

        Raises:
            EngineError: the caches could not be emptied.
            ValueError: vLLM refused a prompt; no request of the batch stays in the engine.
        """
        async with self._lockstep:
            too_long = [self._too_long(len(p.prompt_token_ids), sampling.max_tokens) for p in prompts]
            requests = [
                (prompt, sampling_params(sampling, group_size=group_size, seed=seed))
                for prompt, seed, failure in zip(prompts, seeds, too_long, strict=True)
                if failure is None
            ]
            version = self._version
            queues = await self._submit_together(requests)
            outputs = await asyncio.gather(*(self._within(deadline_s, self._collect(queue)) for queue in queues))
            remaining = iter(outputs)
            return [failure or self._generation(next(remaining), version) for failure in too_long]

    async def score(
        self,
        prompt: ProcessedPrompt,
        *,
        prefix_ids: Sequence[int],
        text_ids: Sequence[int],
        deadline_s: float,
        is_alone: bool = False,
    ) -> float | Failure:
        """The log-probability of tokens after a prompt and a prefix: temperature 1, without truncation.

        vLLM also computes the logits of all tokens before them: num_tokens x vocabulary x 4 bytes beside the memory
        of `rollout.kv_cache_gib` or `rollout.gpu_memory_utilization`.

        Args:
            text_ids: the scored tokens, at least one.
            is_alone: nothing runs beside it and caches are emptied before, so that the same question under the same
                weights gives the same bits.

        Returns:
            Nats, summed over `text_ids`; or a failure `too-long` or `deadline`.

        Raises:
            EngineError: the caches could not be emptied, or vLLM left tokens out.
            EngineDeadError: vLLM's core process ended.
        """
        whole = dataclasses.replace(prompt, prompt_token_ids=(*prompt.prompt_token_ids, *prefix_ids, *text_ids))
        too_long = self._too_long(len(whole.prompt_token_ids), 1)
        if too_long is not None:
            return too_long
        if is_alone:
            async with self._lockstep:
                await self._empty_caches()
                output = await self._within(deadline_s, self._complete(whole, scoring_params()))
        else:
            output, _ = await self._complete_in_turn(whole, scoring_params(), deadline_s=deadline_s)
        return output if isinstance(output, Failure) else logprob_of(output, text_ids)

    async def _complete_in_turn(
        self, prompt: ProcessedPrompt, params: SamplingParams, *, deadline_s: float
    ) -> tuple[RequestOutput | Failure, int]:
        """Waits for admission; returns the output, and the version at the submission."""
        with self._admission.queued(params.n) as admitted:
            try:
                async with asyncio.timeout(WAITING_DEADLINES * deadline_s):
                    await self._answer(admitted)
            except TimeoutError:
                return self._late(WAITING_DEADLINES * deadline_s, "passed before its admission"), self._version
            version = self._version
            queue = await self._submit(prompt, params)
        return await self._within(deadline_s, self._collect(queue)), version

    async def _within(self, deadline_s: float, request: Awaitable[RequestOutput]) -> RequestOutput | Failure:
        try:
            async with asyncio.timeout(deadline_s):
                return await request
        except TimeoutError:
            return self._late(deadline_s, "passed")

    def _late(self, seconds: float, what: str) -> Failure:
        return Failure(stage="rollout", reason="deadline", detail=f"engine {self.name}: {seconds:.0f} s {what}")

    async def _complete(self, prompt: ProcessedPrompt, params: SamplingParams) -> RequestOutput:
        return await self._collect(await self._submit(prompt, params))

    async def _submit(self, prompt: ProcessedPrompt, params: SamplingParams) -> RequestOutputCollector:
        # the request is in vLLM's core when this returns
        request = self._engine_input(prompt, cache_salt=self._weights_id, tower_version=self._tower_id)
        self._steps.began(time.monotonic())
        return await self._llm.add_request(f"{self.name}-{next(self._request_ids)}", request, params)

    async def _collect(self, queue: RequestOutputCollector) -> RequestOutput:
        try:
            # with `FINAL_ONLY` the first output is the only one
            return cast(RequestOutput, await queue.get())
        except asyncio.CancelledError:
            # by the deadline or the caller: without the abort, vLLM would finish the request
            await self._abort([queue])
            raise

    async def _abort(self, queues: Sequence[RequestOutputCollector]) -> None:
        await self._llm.abort([queue.request_id for queue in queues], internal=True)
        # a paused or idle vLLM takes no step that would show the free places
        self._admission.wake()
        if not self._num_unfinished():
            self._steps.stopped()

    async def _submit_together(
        self, requests: Sequence[tuple[ProcessedPrompt, SamplingParams]]
    ) -> list[RequestOutputCollector]:
        queues: list[RequestOutputCollector] = []
        await self.pause()
        try:
            await self._empty_caches()
            for prompt, params in requests:
                queues.append(await self._submit(prompt, params))
        except BaseException:
            # left in the engine, they would use the caches that the next batch must empty
            await self._abort(queues)
            raise
        finally:
            await self.resume()
        return queues

    async def _empty_caches(self) -> None:
        """Clears prefixes and encoded clips; raises `EngineError` if requests still use them."""
        if not await self._answer(self._llm.reset_prefix_cache()):
            raise EngineError(
                f"engine {self.name}: its caches must be idle before a batch in lockstep, and were not"
            )
        await self._answer(self._llm.reset_encoder_cache())

    def _too_long(self, num_tokens: int, max_tokens: int) -> Failure | None:
        room = self.config.max_model_len - num_tokens
        if room >= max_tokens:
            return None
        return Failure(
            stage="rollout",
            reason="too-long",
            detail=f"prompt of {num_tokens} tokens leaves {room} of "
            f"rollout.max_model_len={self.config.max_model_len}, completion may take {max_tokens}",
        )

    def _generation(self, output: RequestOutput | Failure, submission_version: int) -> Generation | Failure:
        if isinstance(output, Failure):
            return output
        return Generation(
            completions=tuple(completion_of(c) for c in sorted(output.outputs, key=lambda c: c.index)),
            submission_version=submission_version,
            engine=self.name,
        )

    async def pause(self) -> None:
        """Freezes every request where it is; nothing in flight is lost."""
        await self._answer(self._llm.pause_generation(mode="keep", clear_cache=False))
        self._steps.paused()

    async def resume(self) -> None:
        await self._answer(self._llm.resume_generation())
        self._steps.resumed(time.monotonic(), is_busy=self._num_unfinished() > 0)

    async def heartbeat(self) -> None:
        """Returns once every worker of vLLM has answered; each does so between two steps."""
        await self.call_workers("heartbeat")

    def stats(self) -> EngineStats:
        """The counters of this process; no other is asked."""
        num_unfinished = self._num_unfinished()
        num_running = min(self._steps.last.num_running, num_unfinished)
        return EngineStats(
            num_steps=self._steps.num_steps,
            num_running=num_running,
            num_waiting=num_unfinished - num_running + self._admission.num_waiting,
            kv_use=self._steps.last.kv_use,
            num_preemptions=self._steps.num_preemptions,
            longest_step_s=self._steps.longest_step_s,
        )

    def _stepped(self, step: Step) -> None:
        self._steps.ended(time.monotonic(), step, is_busy=self._num_unfinished() > 0)
        self._admission.step(step)

    def _num_unfinished(self) -> int:
        # this process counts a sequence from its submission, before vLLM's core does, and until its last token
        return self._llm.output_processor.get_num_unfinished_requests()

    async def start_update(self) -> None:
        """Opens a weight update; the engine must be paused."""
        await self.call_workers("abandon_update")
        await self._answer(self._llm.start_weight_update())

    async def receive(self, path: str, bucket: int) -> None:
        """Loads one bucket from shared memory; vLLM raises a plain error if the bucket ends inside a layer."""
        await self._answer(
            self._llm.update_weights(WeightTransferUpdateRequest(update_info={"path": path, "bucket": bucket}))
        )

    async def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        """Loads tensors of the engine's checkpoint with noise, in an open update; see `WeightReceiver`."""
        await self.call_workers("receive_perturbed", list(names), scale, nonce)

    async def finish_update(self, *, version: int, weights_id: str, tower_id: str) -> list[TensorReceipt]:
        """Closes the update; from then on the version and the identities hold.

        Returns:
            The receipt of worker 0.

        Raises:
            RuntimeError: another worker received other bytes.
        """
        await self._answer(self._llm.finish_weight_update(str(version)))
        self._version, self._weights_id, self._tower_id = version, weights_id, tower_id
        per_worker = await self.call_workers("weight_receipts")
        if any(receipts != per_worker[0] for receipts in per_worker[1:]):
            raise RuntimeError(f"engine {self.name}: its workers received different tensors")
        return [
            TensorReceipt(name=name, shape=tuple(shape), dtype=dtype, digest=digest)
            for name, shape, dtype, digest in per_worker[0]
        ]

    async def call_workers(self, method: str, *args: Any) -> list[Any]:
        """Calls a method of the worker extension on every worker."""
        return await self._answer(cast(Awaitable[list[Any]], self._llm.collective_rpc(method, args=args)))

    async def _answer(self, call: Awaitable[T]) -> T:
        # vLLM never answers a call that is outstanding when its core dies
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=POLL_S)
                if self._llm.errored and not task.done():
                    raise self._llm.dead_error
            return task.result()
        finally:
            task.cancel()

    def failure(self) -> str:
        """The cause of death of a vLLM process; empty while all run."""
        return self._failures.cause()

    def shutdown(self) -> None:
        self._llm.shutdown()
