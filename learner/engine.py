"""One DeepSpeed rank: GRPO updates, scoring, and its share of a publish. No Ray here.

Every public method is a collective: all ranks call it, in the same order. A rank without a modality, a micro-batch
or any work runs passes of weight zero.
"""

import functools
import logging
import math
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from common.config.learner import LearnerConfig
from common.errors import ConfigError
from common.models.registry import family_of
from common.models.tokens import pack_tokens
from common.types import ProcessedPrompt
from learner.checkpoints.rank_checkpoints import RankCheckpoints
from learner.publishing.plan import plan_publish
from learner.publishing.sender import WeightSender
from learner.training.batch import MicroBatch, TrainGroup, empty_micro_batch, micro_batches
from learner.training.lora import AdapterOffReference, MergedLoraSource, inject_adapters
from learner.training.loss import Denominators
from learner.training.objectives import GrpoObjective, Objective, Pass, SftObjective
from learner.training.process_group import ProcessGroup
from learner.training.randomness import seed_everything, seed_of
from learner.training.reference import OwnReference, Reference
from learner.training.schedule import learning_rate
from learner.training.step_sums import StepSums
from learner.zero.deepspeed_facade import DeepSpeedEngine
from learner.zero.frozen import freeze_parameters
from learner.zero.weight_source import WeightSource

logger = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LearnerEngine:
    """The policy, its optimizer and its frozen reference on one rank."""

    def __init__(
        self,
        *,
        config: LearnerConfig,
        model_path: str,
        reference_path: str | None,
        source_path: str | None = None,
        dtype: str,
        pad_token_id: int,
        temperature: float,
        max_tokens: int,
        seed: int,
    ) -> None:
        """Joins the process group (`RANK`, `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`) and loads the model.

        Args:
            reference_path: model folder of the frozen reference; the policy's for None.
            source_path: model folder that exists as long as the run, whose other files checkpoints copy.
            temperature: the sampler's, which divides every logit here too.
            max_tokens: most tokens of a completion, the constant of Dr.GRPO's aggregation.
        """
        self.config, self.temperature, self.max_tokens = config, temperature, max_tokens
        self.pad_token_id = pad_token_id
        self._ranks = ProcessGroup()
        seed_everything(seed_of(seed, self._ranks.rank))
        self.rank, self.device = self._ranks.rank, self._ranks.device
        self._model_path = Path(model_path)
        family = family_of(model_path)
        self.encode = functools.partial(family.encode_completion, model_path=model_path)
        """Returns the token ids of a completion to imitate."""
        policy = self._load_policy(dtype=dtype, seed=seed)
        self._deepspeed = DeepSpeedEngine(policy, config, dtype=dtype)
        self._module = self._deepspeed.module
        self._reference = self._load_reference(reference_path, dtype=dtype) if config.beta > 0 else None
        self.source = (MergedLoraSource if config.lora else WeightSource)(self._module)
        plan = plan_publish(
            self.source,
            engine_layer=family.engine_layer,
            tower_prefixes=family.tower_prefixes,
            bucket_bytes=config.publish.bucket_bytes,
        )
        if plan.closed_over:
            logger.info("frozen tensors published with their layers: %s", ", ".join(plan.closed_over))
        self.sender = WeightSender(self.source, plan, rank=self.rank)
        self.checkpoints = RankCheckpoints(
            source=self.source,
            deepspeed=self._deepspeed,
            ranks=self._ranks,
            lora=config.lora,
            source_path=Path(source_path or model_path),
        )
        self.num_updates = 0

    def _load_policy(self, *, dtype: str, seed: int) -> nn.Module:
        # by default torch lets convolutions round to TF32
        torch.backends.cudnn.allow_tf32 = dtype != "float32"
        policy = family_of(self._model_path).load_policy(str(self._model_path), dtype=DTYPES[dtype])
        if self.config.gradient_checkpointing:
            cast(Any, policy).recompute_layers()
        freeze_parameters(policy, self.config.freeze)
        if self.config.lora:
            inject_adapters(policy, self.config.lora, seed=seed)
        return policy

    def _load_reference(self, path: str | None, *, dtype: str) -> Reference:
        if not self.config.lora:
            policy = family_of(self._model_path).load_policy(path or str(self._model_path), dtype=DTYPES[dtype])
            return OwnReference(policy, device=self.device, is_offloaded=self.config.reference == "offloaded")
        if path is not None and Path(path).resolve() != self._model_path.resolve():
            raise ConfigError(
                f"the model under learner.lora must be the reference, got {self._model_path} and {path}; "
                "start from the reference and load the adapter"
            )
        return AdapterOffReference(self._deepspeed)

    def train_step(self, groups: Sequence[TrainGroup]) -> dict[str, float]:
        """Trains on this rank's groups, which may be none, by one or several optimizer updates.

        An update whose loss or gradient norm is not finite is not taken, nor are those after it: parameters and
        moments stay unchanged on all ranks.

        Returns:
            Metrics of the whole batch, the same on every rank; keys `learner/...` and `seconds/...`.
            `learner/is_skipped` is 1 if an update was not taken.
        """
        self.checkpoints.writer.check()
        seconds: dict[str, float] = defaultdict(float)
        batches, denominators = self._share(groups)
        with _timed(seconds, "logprobs"):
            passes = [
                Pass(batch=batch, old=old, reference=reference)
                for batch, old, reference in zip(
                    batches, self._old_logprobs(batches), self._reference_logprobs(batches), strict=True
                )
            ]
        updates: list[dict[str, float]] = []
        while len(updates) < self.config.updates_per_step:
            objective = GrpoObjective(self.config.objective, temperature=self.temperature)
            updates.append(self._update(passes, objective, denominators, seconds))
            if updates[-1]["learner/is_skipped"]:
                break
        # the first update shows the sampler's policy, the last the distance from it
        last = {key: updates[-1][key] for key in ("learner/clip_fraction", "learner/lr")}
        return updates[0] | last | {f"seconds/{k}": v for k, v in seconds.items()}

    def sft_step(self, examples: Sequence[TrainGroup]) -> dict[str, float]:
        """One supervised update on this rank's examples, which may be none; not taken if it is not finite.

        Returns:
            Metrics of the whole batch, the same on every rank; keys `sft/...`.
        """
        batches, denominators = self._share(examples)
        passes = [Pass(batch=batch) for batch in batches]
        metrics = self._update(passes, SftObjective(), denominators, defaultdict(float))
        kept = ("loss", "grad_norm", "lr", "num_tokens", "entropy/mean", "is_skipped")
        return {f"sft/{key}": metrics[f"learner/{key}"] for key in kept}

    def _share(self, groups: Sequence[TrainGroup]) -> tuple[list[MicroBatch], Denominators]:
        """This rank's passes, as many as on the busiest rank, and the denominators over all ranks."""
        batches = micro_batches(
            groups,
            max_rows=self.config.max_rows_per_micro_batch,
            max_tokens=self.config.max_tokens_per_micro_batch,
            pad_token_id=self.pad_token_id,
            device=self.device,
        )
        sums = torch.tensor(
            [sum(len(b.advantages) for b in batches), sum(b.tokens.num_tokens for b in batches)],
            dtype=torch.float64,
        )
        most = torch.tensor([len(batches)])
        self._ranks.all_reduce(sums)
        self._ranks.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        if most == 0:
            raise ValueError("a batch must hold a group, got none on any rank")
        while len(batches) < int(most):
            batches.append(empty_micro_batch(pad_token_id=self.pad_token_id, device=self.device))
        return batches, Denominators(
            num_sequences=float(sums[0]), num_tokens=float(sums[1]), max_tokens=float(self.max_tokens)
        )

    def _reference_logprobs(self, batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        if self._reference is None:
            return [None] * len(batches)
        with self._reference.ready():
            return [
                self._reference(b.tokens, temperature=self.temperature)
                if self._reference.needs_every_rank or not b.is_empty
                else None
                for b in batches
            ]

    def _old_logprobs(self, batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        if self.config.old_logprobs == "rollout":
            return [b.rollout_logprobs for b in batches]
        # None: the current policy's values, for which the ratio is exactly 1
        if self.config.updates_per_step == 1:
            return [None] * len(batches)
        with self._deepspeed.evaluating():
            return [self._deepspeed(b.tokens, temperature=self.temperature)[0] for b in batches]

    def _update(
        self, passes: Sequence[Pass], objective: Objective, denominators: Denominators, seconds: dict[str, float]
    ) -> dict[str, float]:
        """Forward and backward of every pass, then one optimizer step if all values are finite."""
        sums = StepSums()
        totals: dict[str, float] = {}
        settings = self.config.optimizer
        lr = learning_rate(
            self.num_updates,
            peak=settings.lr,
            warmup_steps=settings.warmup_steps,
            total_steps=self.config.steps * self.config.updates_per_step,
            schedule=settings.schedule,
        )
        self._deepspeed.set_learning_rate(lr)
        for i, part in enumerate(passes):
            is_last = i == len(passes) - 1
            self._deepspeed.begin_pass(is_last=is_last)
            with _timed(seconds, "forward"):
                logprobs, entropy = self._deepspeed(part.batch.tokens, temperature=objective.temperature)
                if part.batch.is_empty:
                    loss = (logprobs * 0.0).sum()
                else:
                    loss = objective(part, logprobs, entropy, denominators=denominators, sums=sums)
            if is_last:
                totals = sums.reduce(self._ranks.all_reduce)
                if not math.isfinite(totals["loss"]):
                    # an infinite loss may have a finite gradient: NaN on every rank, so that no rank steps
                    loss = loss * math.nan
            with _timed(seconds, "backward"):
                self._deepspeed.backward(loss)
        with _timed(seconds, "update"):
            stepped = self._deepspeed.step()
        self.num_updates += stepped.is_taken
        return sums.metrics(totals) | {
            "learner/grad_norm": stepped.grad_norm,
            "learner/lr": lr,
            "learner/is_skipped": float(not stepped.is_taken),
        }

    def score(
        self, prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[list[float]]]:
        """Log-probabilities of completions [prompt][completion][token] under the current weights, in that nesting.

        Prompts and completions are the same on every rank.
        """
        scores: list[list[list[float]]] = []
        with self._deepspeed.evaluating():
            for prompt, group in zip(prompts, completions, strict=True):
                tokens = pack_tokens([prompt], [group], pad_token_id=self.pad_token_id, device=self.device)
                logprobs, _ = self._deepspeed(tokens, temperature=self.temperature)
                scores.append([row[: len(c)].tolist() for row, c in zip(logprobs, group, strict=True)])
        return scores

    def close(self) -> None:
        """Removes the segments and leaves the process group."""
        self.checkpoints.writer.wait()
        self.sender.close()
        self._ranks.close()


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Generator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - start
