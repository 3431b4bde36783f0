"""Configuration of the rollout plane."""

from typing import Self

from pydantic import Field, model_validator

from common.config.base import Config, changeable


class SamplingConfig(Config):
    """Sampling of completions."""

    temperature: float = Field(default=1.0, gt=0, le=10)
    """Temperature of the sampler; the learner applies the same."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Probability of the nucleus that is kept (top-p); 1 keeps every token."""
    top_k: int = Field(default=0, ge=0)
    """Number of likeliest tokens that are kept (top-k); 0 keeps every token."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest completion, in tokens."""

    @property
    def truncates(self) -> bool:
        """True if some tokens can never be sampled."""
        return self.top_p < 1 or self.top_k > 0


class RolloutConfig(Config):
    """Rollout engines and sampling."""

    num_engines: int = changeable(1, ge=1)
    """Number of vLLM engines, one Ray actor each."""
    min_engines: int = changeable(1, ge=1)
    """Fewest engines that must be able to start; a run with fewer ends. With `run.deterministic` all must."""
    group_size: int = Field(default=8)
    """Completions per prompt (G)."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of completions."""
    max_model_len: int = Field(default=4096, ge=16)
    """Longest prompt and completion together, in tokens."""
    max_num_seqs: int = changeable(64, ge=1)
    """Most sequences that one engine runs at once."""
    max_num_batched_tokens: int = changeable(8192, ge=16)
    """Most tokens of one forward pass; raised to `max_model_len` where it is less."""
    deadline_s: float = changeable(600.0, gt=0)
    """Seconds after which a request is aborted and its draw counted as failed."""
    answer_deadline_s: float = changeable(30.0, gt=0)
    """Seconds in which an engine must answer the publisher; requests get as many beyond `deadline_s`."""
    num_cpus: float = changeable(0.5, ge=0)
    """Ray CPUs that one engine takes."""
    num_gpus: float = changeable(0.0, ge=0)
    """Ray GPUs that one engine takes."""
    num_threads: int = changeable(1, ge=1)
    """OpenMP threads of one engine's processes; apart from Ray's accounting."""
    kv_cache_gib: float | None = changeable(None, gt=0)
    """Memory of the key-value cache, in GiB; null is the rest of the GPU's share, or on a CPU the size of
    `max_num_seqs` sequences of `max_model_len` tokens."""
    gpu_memory_utilization: float = changeable(0.85, gt=0, le=1)
    """Share of a GPU's memory that vLLM takes."""
    tensor_parallel_size: int = changeable(1, ge=1)
    """GPUs over which one engine splits the model."""
    enforce_eager: bool = changeable(True)
    """Run without CUDA graphs and compilation."""

    @model_validator(mode="after")
    def a_run_can_have_its_fewest_engines(self) -> Self:
        # a fleet has one slot per engine
        if self.min_engines > self.num_engines:
            raise ValueError(
                f"rollout.min_engines must be <= rollout.num_engines, got {self.min_engines} > {self.num_engines}; "
                "lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def a_group_has_rewards_to_centre(self) -> Self:
        # GRPO subtracts the group's mean
        if self.group_size < 2:
            raise ValueError(
                f"rollout.group_size must be >= 2, got {self.group_size}; GRPO needs a group to centre rewards"
            )
        return self

    @model_validator(mode="after")
    def an_engine_has_the_gpus_it_splits_over(self) -> Self:
        # Ray reserves `num_gpus`, vLLM uses `tensor_parallel_size`
        if self.tensor_parallel_size > max(self.num_gpus, 1):
            raise ValueError(
                f"rollout.tensor_parallel_size must be <= rollout.num_gpus, got {self.tensor_parallel_size} > "
                f"{self.num_gpus:g}; raise num_gpus"
            )
        return self

    @model_validator(mode="after")
    def a_completion_fits_the_model_length(self) -> Self:
        # a prompt needs room
        if self.sampling.max_tokens >= self.max_model_len:
            raise ValueError(
                f"rollout.sampling.max_tokens must be < rollout.max_model_len, got {self.sampling.max_tokens} "
                f">= {self.max_model_len}; lower the one or raise the other"
            )
        return self
