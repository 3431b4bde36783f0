"""One rank's share of a checkpoint: model, optimizer, adapters and random numbers, saved and loaded.

Every method is a collective, except the writer's.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from common.config.learner import LoraConfig
from learner.checkpoints.hf_folder import HfWriter, shards_of
from learner.checkpoints.shard_writer import HostCopies, ShardWriter, StoredTensors
from learner.training.lora import (
    adapter_config,
    load_adapter_file,
    read_adapter,
    write_adapter,
    write_adapter_folder,
)
from learner.training.process_group import ProcessGroup
from learner.training.randomness import load_rng_state, rng_state
from learner.zero import optimizer_state
from learner.zero.deepspeed_facade import DeepSpeedEngine
from learner.zero.weight_source import WeightSource


class RankCheckpoints:
    """Saves and loads a rank's share of checkpoints."""

    def __init__(
        self,
        *,
        source: WeightSource,
        deepspeed: DeepSpeedEngine,
        ranks: ProcessGroup,
        lora: LoraConfig | None,
        source_path: Path,
    ) -> None:
        """`source_path` is a checkpoint that exists as long as the run; its other files are copied."""
        self._source, self._deepspeed, self._ranks, self._lora = source, deepspeed, ranks, lora
        self._source_path = source_path
        self._copies = HostCopies()
        self.writer = ShardWriter(rank=ranks.rank, world_size=ranks.world_size)

    def begin_save(self, folder: Path, target: Path, *, state: str, num_updates: int) -> None:
        """Copies the state of training to host memory, and begins to write it.

        The empty `folder` becomes `target` when all ranks have written. `state` is the text of `state.json`.
        """
        self.writer.wait()
        shards = list(shards_of(self._source.parameters))
        hf = HfWriter(folder / "hf", source=self._source_path, shards=shards)
        weights = self._share(shards, self._weights)
        moments = self._share(shards_of(self._trained()), self._moments)
        adapter = self.adapter() if self._lora else None
        counts = {"num_updates": num_updates, "world_size": self._ranks.world_size}
        rng = rng_state()

        def write() -> None:
            for number, tensors in weights.items():
                hf.write(number, tensors)
            stored = folder / "optimizer"
            stored.mkdir(mode=0o700, exist_ok=True)
            for number, tensors in moments.items():
                save_file(tensors, stored / f"part-{number:05d}.safetensors")
            save_file(rng, stored / f"rng-{self._ranks.rank:05d}.safetensors")
            if self._ranks.rank == 0:
                hf.write_rest()
                (stored / "engine.json").write_text(json.dumps(counts, indent=1) + "\n")
                if adapter is not None:
                    write_adapter_folder(folder / "adapter", *adapter)
                (folder / "state.json").write_text(state)

        self.writer.begin(folder, target, write)

    def save_hf(self, folder: Path) -> None:
        """Writes a checkpoint for transformers and vLLM, on rank 0."""
        shards = list(shards_of(self._source.parameters))
        writer = HfWriter(folder, source=self._source_path, shards=shards) if self._ranks.rank == 0 else None
        for number, names in enumerate(shards):
            tensors = self._source.gather(names)
            if writer is not None:
                writer.write(number, tensors)
        if writer is not None:
            writer.write_rest()

    def load(self, folder: Path) -> int:
        """Loads a checkpoint into an engine that was started from its `hf/`, or with LoRA from the adapters' model.

        Random numbers are restored for the same number of ranks. Returns the number of optimizer updates.
        """
        stored = folder / "optimizer"
        counts = json.loads((stored / "engine.json").read_text())
        if self._lora:
            self.load_adapter(folder / "adapter")
        moments = StoredTensors(*sorted(stored.glob("part-*.safetensors")))
        optimizer_state.write_state(self._deepspeed, self._trained(), moments, num_updates=counts["num_updates"])
        if counts["world_size"] == self._ranks.world_size:
            load_rng_state(StoredTensors(stored / f"rng-{self._ranks.rank:05d}.safetensors"))
        return counts["num_updates"]

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The contents of `adapter_model.safetensors` and of `adapter_config.json`."""
        assert self._lora, "only a policy with learner.lora has an adapter"
        module = self._deepspeed.module
        return read_adapter(module), adapter_config(module, self._lora, base=str(self._source_path))

    def load_adapter(self, folder: Path) -> None:
        write_adapter(self._deepspeed.module, self._deepspeed.optimizer, load_adapter_file(folder))

    def _weights(self, names: Sequence[str], *, is_own: bool) -> dict[str, Tensor]:
        with self._source.whole(names) as tensors:
            return self._copies.of(names[0], tensors) if is_own else {}

    def _moments(self, names: Sequence[str], *, is_own: bool) -> dict[str, Tensor]:
        trained = self._trained()
        copies: dict[str, Tensor] = {}
        # one parameter at a time: whole states of all would fill the device
        for name in names:
            state = optimizer_state.read_state(self._deepspeed, name, trained[name])
            if is_own:
                copies |= self._copies.of(f"moments of {name}", state)
        return copies

    def _share(
        self, shards: Iterable[Sequence[str]], copied: Callable[..., dict[str, Tensor]]
    ) -> dict[int, dict[str, Tensor]]:
        share: dict[int, dict[str, Tensor]] = {}
        for number, names in enumerate(shards):
            is_own = number % self._ranks.world_size == self._ranks.rank
            tensors = copied(names, is_own=is_own)
            if is_own:
                share[number] = tensors
        return share

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._deepspeed.module.named_parameters() if p.requires_grad}
