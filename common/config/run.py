"""Configuration of a run: the root of the tree."""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import Field, field_validator, model_validator

from common.config.base import Config, changeable
from common.config.data import DataConfig
from common.config.evaluation import EvaluationConfig
from common.config.learner import LearnerConfig
from common.config.reward import RewardConfig
from common.config.rollout import RolloutConfig
from common.config.sft import SftConfig

RUNS_VARIABLE = "OMNI_RLVR_RUNS"


class TinyModelConfig(Config):
    """A random model of the real architecture, built into the run folder: for demos and tests."""

    tied: bool = False
    """Share the embedding's matrix with the head."""
    hidden_size: int = Field(default=128, ge=64, multiple_of=64)
    """Width of the decoder; heads have 32 dimensions."""
    num_layers: int = Field(default=2, ge=1)
    """Number of decoder layers."""
    vocab_size: int = Field(default=500, ge=300)
    """Number of tokens of its tokenizer."""


class ModelConfig(Config):
    """The policy at the start of the run."""

    path: str | None = None
    """Folder of a checkpoint; null builds `model.tiny`."""
    tiny: TinyModelConfig = TinyModelConfig()
    """The model that is built where no path is given."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Data type of the weights in learner and engines."""


class RunConfig(Config):
    """Folder, seed and repeatability of a run."""

    name: str = changeable("run")
    """Name of the run, and of its folder under run.root."""
    root: str = changeable("")
    """Folder that holds the folders of all runs; else $OMNI_RLVR_RUNS, else ~/omni-rlvr-runs."""
    seed: int = Field(default=0, ge=0)
    """Seed of a tiny model's weights, of the prompts' order and of every completion."""
    deterministic: bool | None = None
    """Repeat bit for bit, kills included; by default on CPU and on-policy."""
    resume: Literal["auto", "never"] = changeable("auto")
    """Resume with the same command; `never` sets earlier results aside and starts from scratch."""
    wandb_project: str = changeable("")
    """W&B project that takes the metrics too; empty for none."""
    start_deadline_s: float = changeable(1800.0, gt=0)
    """Seconds until the start of engines and ranks counts as failed, as on a cluster that is busy."""

    @field_validator("name")
    @classmethod
    def a_name_is_one_folder(cls, name: str) -> str:
        """It becomes part of a path and of an actor's name."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(f"run.name must be letters, digits, dots and dashes, got {name!r}; rename the run")
        return name

    @model_validator(mode="before")
    @classmethod
    def the_root_is_resolved_once(cls, values: Any) -> Any:
        """A relative path would mean another folder in every process."""
        if not isinstance(values, dict):
            return values
        settings = cast("dict[str, Any]", values)
        root = str(settings.get("root") or os.environ.get(RUNS_VARIABLE) or Path.home() / "omni-rlvr-runs")
        path = Path(root).expanduser()
        if not path.is_absolute() and _is_ray_job():
            raise ValueError(
                f"run.root must be absolute under `ray job submit`, got {root!r}; the job's directory is a copy "
                f"that Ray deletes: give a full path or set ${RUNS_VARIABLE}"
            )
        return {**settings, "root": str(path.resolve() if path.is_absolute() else Path.cwd() / path)}

    @property
    def folder(self) -> Path:
        return Path(self.root) / self.name


class OmniConfig(Config):
    """One run of omni-rlvr."""

    run: RunConfig = Field(default_factory=RunConfig)
    """Folder, seed and repetition of the run."""
    model: ModelConfig = ModelConfig()
    """The policy at the start of the run."""
    data: DataConfig = DataConfig()
    """The corpus, and the limits on a clip."""
    rollout: RolloutConfig = RolloutConfig()
    """Rollout engines and sampling."""
    reward: RewardConfig = RewardConfig()
    """Rewards of completions."""
    sft: SftConfig = SftConfig()
    """The supervised stage before the reinforcement, the cold start."""
    learner: LearnerConfig = LearnerConfig()
    """The ranks, the loss and the optimizer."""
    evaluation: EvaluationConfig = changeable(EvaluationConfig())
    """The result on held-out clips: when, and how."""

    @model_validator(mode="after")
    def rollout_logprobs_are_of_the_whole_vocabulary(self) -> Self:
        """A truncated sampler's probabilities are not the policy's."""
        if self.learner.old_logprobs == "rollout" and self.rollout.sampling.truncates:
            sampling = self.rollout.sampling
            raise ValueError(
                "rollout.sampling must keep every token with learner.old_logprobs=rollout, got "
                f"top_k={sampling.top_k} top_p={sampling.top_p}; set top_k to 0 and top_p to 1, or "
                "old_logprobs to learner"
            )
        return self

    @property
    def uses_gpus(self) -> bool:
        return self.rollout.num_gpus > 0 or self.learner.num_gpus > 0

    @property
    def can_repeat(self) -> bool:
        """True if a run can repeat bit for bit: on a GPU sums have no fixed order, off-policy groups neither."""
        return not self.uses_gpus and self.learner.max_staleness == 0

    @property
    def is_deterministic(self) -> bool:
        """True if batches are made in lockstep."""
        return self.can_repeat if self.run.deterministic is None else self.run.deterministic

    @model_validator(mode="after")
    def only_what_can_repeat_is_deterministic(self) -> Self:
        """A promise that would not be kept is not made."""
        if self.run.deterministic and not self.can_repeat:
            raise ValueError(
                "run.deterministic must be off with GPUs or learner.max_staleness > 0, got "
                f"rollout.num_gpus={self.rollout.num_gpus:g} learner.num_gpus={self.learner.num_gpus:g} "
                f"learner.max_staleness={self.learner.max_staleness}; leave it out, or run on CPU and on-policy"
            )
        return self

    @model_validator(mode="after")
    def every_stage_has_its_clips(self) -> Self:
        """Said before anything starts."""
        source, evaluation = self.data.source, self.evaluation
        for split, is_wanted, keys, remedy in (
            ("cold_start", self.sft.is_wanted, "sft.steps or sft.epochs", "leave both out"),
            (
                "validation",
                evaluation.every_checkpoints,
                "evaluation.every_checkpoints > 0",
                "set every_checkpoints to 0",
            ),
            ("heldout", evaluation.policies, "evaluation.policies", "set policies to []"),
        ):
            is_brought = source.type == "synthetic" and getattr(source, f"num_{split}") > 0
            if is_wanted and not is_brought and getattr(self.data, split) is None:
                raise ValueError(f"data.{split} must be given with {keys}, got nothing; give clips or {remedy}")
        return self

    @model_validator(mode="after")
    def every_rank_has_as_many_groups(self) -> Self:
        """A rank that works less than the others makes them wait."""
        groups, ranks = self.learner.groups_per_step, self.learner.num_ranks
        if groups < ranks:
            raise ValueError(
                f"learner.groups_per_step must be >= learner.num_ranks, got {groups} < {ranks}; raise the one or "
                "lower the other"
            )
        if groups % ranks:
            raise ValueError(
                f"learner.groups_per_step must be a multiple of learner.num_ranks, got {groups} over {ranks}; take "
                f"{groups - groups % ranks} or {groups + ranks - groups % ranks} groups, or other ranks"
            )
        return self


def _is_ray_job() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
