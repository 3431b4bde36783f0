"""The memory plan of a learner rank and of an engine, from a checkpoint's headers, without torch.

Weights, gradients and optimizer states are counted. Activations and logits are estimated from the layers' sizes,
after Korthikanti et al. 2022, arXiv:2205.05198, section 4.1, for gated layers and attention that keeps no scores;
those of the audio tower are left out.
"""

import fnmatch
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config.learner import LearnerConfig
from common.config.run import OmniConfig
from common.errors import ClusterError, ConfigError
from common.models.limits import MAX_LOGITS

BYTES = {"float32": 4, "bfloat16": 2}
PREFIX, VISION = "thinker.", "thinker.visual."
"""Sizes of the tensors that the policy loads."""
MOMENTS, COPY = 8, 4
"""Bytes per trained number of AdamW's two moments, and of the float32 copy that is stepped."""
LOGIT_BYTES = 20
"""Bytes per logit at one time: head's output, float32 logits, log-softmax, the entropy's exponentials, gradient."""
BLOCK = 128
"""Tokens of one block of vLLM's key-value cache on a CPU."""
PROCESSES = 9 * 2**28
"""Bytes of an engine's processes without weights and cache, on a CPU: 2.1 GiB measured, and a margin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSizes:
    """One stack of equal layers."""

    num_layers: int
    hidden: int
    key_value: int
    """Width of keys, and of values."""
    inner: int
    """Width inside the feed-forward part."""

    def activation_bytes(self, num_bytes: int) -> int:
        """Bytes per token that a layer keeps for its backward pass."""
        # inputs of two norms, of the projections, of attention and of both feed-forward parts; norms in float32
        return num_bytes * (5 * self.hidden + 2 * self.key_value + 4 * self.inner) + 16 * self.hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each tensor that the policy loads, by name."""
    decoder: LayerSizes
    vision: LayerSizes
    vocab_size: int

    @property
    def num_parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))


def model_sizes(folder: Path) -> ModelSizes:
    """Reads the headers of a checkpoint's safetensors and its `config.json`."""
    config = json.loads((folder / "config.json").read_text())
    thinker: dict[str, Any] = config.get("thinker_config", config)
    text, vision = thinker["text_config"], thinker["vision_config"]
    head = text["hidden_size"] // text["num_attention_heads"]
    return ModelSizes(
        shapes={name: shape for name, shape in _tensors(folder) if name.startswith(PREFIX)},
        decoder=LayerSizes(
            num_layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            key_value=head * text.get("num_key_value_heads", text["num_attention_heads"]),
            inner=text["intermediate_size"],
        ),
        vision=LayerSizes(
            num_layers=vision["depth"],
            hidden=vision["hidden_size"],
            key_value=vision["hidden_size"],
            inner=vision["intermediate_size"],
        ),
        vocab_size=text["vocab_size"],
    )


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])


@dataclass(frozen=True, kw_only=True, slots=True)
class RankMemory:
    """Bytes of one learner rank, by part and place."""

    device: Mapping[str, int]
    host: Mapping[str, int]
    """Parts in host memory; empty if nothing is offloaded."""
    num_parameters: int
    num_trained: int

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())


def rank_memory(config: OmniConfig, sizes: ModelSizes) -> RankMemory:
    """Peak memory of a GRPO rank, by part; raises `ConfigError` if a `learner.freeze` pattern matches nothing."""
    learner, width = config.learner, BYTES[config.model.dtype]
    parameters, trained = sizes.num_parameters, _num_trained(learner, sizes)
    stage, ranks = learner.zero_stage, learner.num_ranks
    # a float32 model at stage 0 is stepped in place
    copy = 0 if stage == 0 and width == 4 else COPY
    gradient = 4 if stage >= 2 or width == 4 else width
    activations, logits = _activation_bytes(config, sizes), _logit_bytes(config, sizes)
    # at stage 0 in bfloat16 DeepSpeed makes float32 gradients for its step, when activations are gone
    stepped = 4 * trained if stage == 0 and width == 2 else 0
    parts = {
        "weights": parameters * width // (ranks if stage == 3 else 1),
        "gradients": trained * gradient // (ranks if stage >= 2 else 1),
        "optimizer": trained * (MOMENTS + copy) // (ranks if stage >= 1 else 1),
        "reference": 0 if learner.beta == 0 or learner.lora else parameters * width,
        "activations": activations,
        "logits": logits,
        "float32 gradients": max(0, stepped - activations - logits),
    }
    is_offloaded = {
        "optimizer": learner.offload != "none",
        "weights": learner.offload == "parameters",
        "reference": learner.reference == "offloaded",
    }
    host = {name: size for name, size in parts.items() if size and is_offloaded.get(name)}
    return RankMemory(
        device={name: size for name, size in parts.items() if name not in host},
        host=host,
        num_parameters=parameters,
        num_trained=trained,
    )


def _not_frozen(learner: LearnerConfig, sizes: ModelSizes) -> dict[str, tuple[int, ...]]:
    """Shapes by name; raises `ConfigError` for a pattern that matches nothing."""
    frozen: set[str] = set()
    for pattern in learner.freeze:
        matched = set(fnmatch.filter(sizes.shapes, pattern))
        if not matched:
            raise ConfigError(
                f"learner.freeze must match parameters, got {pattern!r} that matches none of the checkpoint's; "
                f"names look like {next(iter(sizes.shapes))!r}"
            )
        frozen |= matched
    return {name: shape for name, shape in sizes.shapes.items() if name not in frozen}


def _num_trained(learner: LearnerConfig, sizes: ModelSizes) -> int:
    free = _not_frozen(learner, sizes)
    if learner.lora is None:
        return sum(map(math.prod, free.values()))
    targets = [f"{target}.weight" for target in learner.lora.targets]
    adapted = [shape for name, shape in free.items() if any(fnmatch.fnmatch(name, t) for t in targets)]
    return sum(sum(shape) * learner.lora.rank for shape in adapted)


def _activation_bytes(config: OmniConfig, sizes: ModelSizes) -> int:
    learner, rollout, width = config.learner, config.rollout, BYTES[config.model.dtype]
    rows, longest = learner.max_rows_per_micro_batch, rollout.sampling.max_tokens
    # the largest micro-batch has the prompt of each group once, and every completion
    prompts = math.ceil(rows / rollout.group_size) * (rollout.max_model_len - longest)
    tokens = min(learner.max_tokens_per_micro_batch, prompts + rows * longest)
    # the prompt's keys and values are copied for each completion
    attended = 2 * sizes.decoder.key_value * width * rows * rollout.max_model_len
    stacks = [(sizes.decoder, tokens, attended)]
    if learner.lora is None and any(name.startswith(VISION) for name in _not_frozen(learner, sizes)):
        # four patches make a token
        stacks.append((sizes.vision, 4 * min(tokens, prompts), 0))
    total = 0
    for stack, num, more in stacks:
        layer = num * stack.activation_bytes(width) + more
        kept = num * stack.hidden * width
        total += stack.num_layers * kept + layer if learner.gradient_checkpointing else stack.num_layers * layer
    return total


def _logit_bytes(config: OmniConfig, sizes: ModelSizes) -> int:
    rows, longest = config.learner.max_rows_per_micro_batch, config.rollout.sampling.max_tokens
    tokens = min(rows * longest, config.learner.max_tokens_per_micro_batch)
    return max(sizes.vocab_size, min(tokens * sizes.vocab_size, MAX_LOGITS)) * LOGIT_BYTES


def engine_weight_bytes(config: OmniConfig, sizes: ModelSizes) -> int:
    """Weights of one engine on each of its devices."""
    return sizes.num_parameters * BYTES[config.model.dtype] // config.rollout.tensor_parallel_size


def engine_cache_bytes(config: OmniConfig, sizes: ModelSizes) -> int | None:
    """The key-value cache of one engine: `rollout.kv_cache_gib`, or on a CPU the memory of `max_num_seqs` sequences
    of `max_model_len` tokens. None on a GPU, where vLLM takes the rest of its share.
    """
    rollout = config.rollout
    if rollout.kv_cache_gib is not None:
        return int(rollout.kv_cache_gib * 2**30)
    return None if rollout.num_gpus else _cache_bytes(config, sizes, num_seqs=rollout.max_num_seqs)


def _cache_bytes(config: OmniConfig, sizes: ModelSizes, *, num_seqs: int) -> int:
    """Cache of the longest sequences on a CPU, in whole blocks; vLLM keeps one more block empty."""
    block = 2 * sizes.decoder.num_layers * sizes.decoder.key_value * BYTES[config.model.dtype] * BLOCK
    return (1 + num_seqs * math.ceil(config.rollout.max_model_len / BLOCK)) * block


def require_free_memory(config: OmniConfig, sizes: ModelSizes, *, num_engines: int, free_bytes: int) -> None:
    """Compares the engines on this machine's CPUs with its free memory.

    Raises:
        ConfigError: the cache cannot hold one sequence.
        ClusterError: the engines do not fit.
    """
    rollout, cache, weights = config.rollout, engine_cache_bytes(config, sizes), engine_weight_bytes(config, sizes)
    if rollout.num_gpus or cache is None:
        return
    least = _cache_bytes(config, sizes, num_seqs=1)
    if cache < least:
        needed = math.ceil(least / 2**30 * 1e4) / 1e4
        raise ConfigError(
            f"rollout.kv_cache_gib must be >= {needed} to hold one sequence of rollout.max_model_len="
            f"{rollout.max_model_len}, got {rollout.kv_cache_gib}; raise it, leave it out or lower max_model_len"
        )
    needed_bytes = num_engines * (weights + cache + PROCESSES)
    if needed_bytes > free_bytes:
        raise ClusterError(
            f"engines on this machine must fit the {_gib(free_bytes)} of free memory, got {_gib(needed_bytes)} for "
            f"{num_engines} (each weights {_gib(weights)}, cache {_gib(cache)}, processes {_gib(PROCESSES)}); "
            "take a smaller rollout.kv_cache_gib, or lower rollout.max_num_seqs, rollout.max_model_len or "
            "rollout.num_engines"
        )


def require_memory(
    config: OmniConfig, sizes: ModelSizes, *, device_bytes: int | None, host_bytes: int | None
) -> None:
    """Compares the memory plan with one GPU and with all hosts together; None if unknown.

    Raises:
        ClusterError: a rank or the engines do not fit.
    """
    rank, weights = rank_memory(config, sizes), engine_weight_bytes(config, sizes)
    learner, rollout = config.learner, config.rollout
    host = learner.num_ranks * (rank.host_bytes + (0 if learner.num_gpus else rank.device_bytes))
    cache = engine_cache_bytes(config, sizes) or 0
    host += 0 if rollout.num_gpus else rollout.num_engines * (weights + cache)
    if device_bytes is not None:
        share = device_bytes * min(1.0, learner.num_gpus)
        if learner.num_gpus and rank.device_bytes > share:
            raise ClusterError(
                f"a learner rank must fit {_gib(share)} of its GPU, got {_gib(rank.device_bytes)} "
                f"({_parts(rank.device)}); take more ranks with a higher learner.zero_stage, learner.offload, "
                "learner.gradient_checkpointing, learner.lora, or smaller micro-batches"
            )
        share = device_bytes * rollout.gpu_memory_utilization
        if rollout.num_gpus and weights > share:
            raise ClusterError(
                f"an engine's weights must fit {_gib(share)} of a GPU, got {_gib(weights)}; raise "
                "rollout.tensor_parallel_size or rollout.gpu_memory_utilization"
            )
    if host_bytes is not None and host > host_bytes:
        raise ClusterError(
            f"ranks and engines must fit {_gib(host_bytes)} of host memory, got {_gib(host)}, of which each rank "
            f"{_parts(rank.host if learner.num_gpus else {**rank.device, **rank.host})}, and each engine's cache "
            f"{_gib(cache)}; lower learner.num_ranks or rollout.kv_cache_gib, or take smaller micro-batches"
        )


def format_memory(config: OmniConfig, sizes: ModelSizes) -> str:
    rank = rank_memory(config, sizes)
    at_rank = "GPU" if config.learner.num_gpus else "host"
    at_engine = "GPU" if config.rollout.num_gpus else "host"
    rows = [(name, _gib(n), at_rank) for name, n in rank.device.items()]
    rows += [(name, _gib(n), "host, offloaded") for name, n in rank.host.items()]
    rows.append(("an engine's weights", _gib(engine_weight_bytes(config, sizes)), at_engine))
    cache = engine_cache_bytes(config, sizes)
    if cache is not None:
        how = ", for rollout.max_num_seqs sequences" if config.rollout.kv_cache_gib is None else ""
        rows.append(("an engine's cache", _gib(cache), f"{at_engine}{how}"))
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(
        [
            f"memory of one learner rank: {rank.num_parameters / 1e6:,.1f} M parameters, "
            f"{rank.num_trained / 1e6:,.1f} M trained; activations and logits are estimates",
            *(f"  {name.ljust(width)}  {size:>10}  {where}" for name, size, where in rows),
        ]
    )


def _parts(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {_gib(n)}" for name, n in parts.items() if n)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
