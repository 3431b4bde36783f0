"""What one rank keeps of its engine: model, optimizer, adapters and random numbers, out to a checkpoint and back.

Every method is a collective, but for the writer's.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.config.learner import LoraConfig
from learner.checkpoints.hf_folder import HfWriter, shards_of
from learner.checkpoints.shard_writer import (
    HostCopies,
    ShardWriter,
    StoredTensors,
    read_counts,
    write_counts,
    write_tensors,
)
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
    """Takes a rank's share of a checkpoint, and takes it up again."""

    def __init__(
        self,
        *,
        source: WeightSource,
        deepspeed: DeepSpeedEngine,
        ranks: ProcessGroup,
        lora: LoraConfig | None,
        source_path: Path,
    ) -> None:
        """`source_path` is a checkpoint that lasts as long as the run, whose other files are copied."""
        self._source, self._deepspeed, self._ranks, self._lora = source, deepspeed, ranks, lora
        self._source_path = source_path
        self._copies = HostCopies()
        self.writer = ShardWriter(rank=ranks.rank, world_size=ranks.world_size)

    def begin_save(self, folder: Path, target: Path, *, state: str, num_updates: int) -> None:
        """Copies everything that training needs to host memory, and begins to write it.

        Args:
            folder: where it is written; empty.
            target: where it is put when all ranks have written their share.
            state: the driver's, for `state.json`.
            num_updates: optimizer updates so far.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.writer.wait()
        shards = list(shards_of(self._source.parameters))
        hf = HfWriter(folder / "hf", source=self._source_path, shards=shards)
        weights = self._own(shards, self._weights)
        moments = self._own(shards_of(self._trained()), self._moments)
        adapter = self.adapter() if self._lora else None
        counts = {"num_updates": num_updates, "world_size": self._ranks.world_size}
        rng = rng_state()

        def write() -> None:
            for number, tensors in weights.items():
                hf.write(number, tensors)
            stored = folder / "optimizer"
            for number, tensors in moments.items():
                write_tensors(stored / f"part-{number:05d}.safetensors", tensors)
            write_tensors(stored / f"rng-{self._ranks.rank:05d}.safetensors", rng)
            if self._ranks.rank == 0:
                hf.write_rest()
                write_counts(stored, counts)
                if adapter is not None:
                    write_adapter_folder(folder / "adapter", *adapter)
                (folder / "state.json").write_text(state)

        self.writer.begin(folder, target, write)

    def save_hf(self, folder: Path) -> None:
        """Writes a checkpoint that transformers and vLLM load, on rank 0; whole when it returns."""
        shards = list(shards_of(self._source.parameters))
        writer = HfWriter(folder, source=self._source_path, shards=shards) if self._ranks.rank == 0 else None
        for number, names in enumerate(shards):
            tensors = self._source.gather(names)
            if writer is not None:
                writer.write(number, tensors)
        if writer is not None:
            writer.write_rest()

    def load(self, folder: Path) -> int:
        """Takes up a checkpoint: its optimizer, its adapters, and its random numbers where the ranks are as many.

        Args:
            folder: of the checkpoint. The engine was started from its `hf/`, or with LoRA from the model under the
                adapters.

        Returns:
            Optimizer updates so far.
        """
        stored = folder / "optimizer"
        counts = read_counts(stored)
        if self._lora:
            self.load_adapter(folder / "adapter")
        moments = StoredTensors(stored, "part-*.safetensors")
        optimizer_state.write_state(self._deepspeed, self._trained(), moments, num_updates=counts["num_updates"])
        if counts["world_size"] == self._ranks.world_size:
            load_rng_state(StoredTensors(stored, f"rng-{self._ranks.rank:05d}.safetensors"))
        return counts["num_updates"]

    def adapter(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The adapters by peft's names in `adapter_model.safetensors`, and what `adapter_config.json` holds."""
        assert self._lora, "only a policy with learner.lora has an adapter"
        module = self._deepspeed.module
        return read_adapter(module), adapter_config(module, self._lora, base=str(self._source_path))

    def load_adapter(self, folder: Path) -> None:
        """Takes up adapters; the model under them is the one that the engine was started from.

        Raises:
            ModelError: they are of other layers or of another rank.
        """
        write_adapter(self._deepspeed.module, self._deepspeed.optimizer, load_adapter_file(folder))

    def _weights(self, names: Sequence[str], *, is_own: bool) -> dict[str, Tensor]:
        with self._source.whole(names) as tensors:
            return self._copies.of(names[0], tensors) if is_own else {}

    def _moments(self, names: Sequence[str], *, is_own: bool) -> dict[str, Tensor]:
        """One parameter after the other: whole ones would fill the device."""
        trained = self._trained()
        copies: dict[str, Tensor] = {}
        for name in names:
            state = optimizer_state.read_state(self._deepspeed, name, trained[name])
            if is_own:
                copies |= self._copies.of(f"moments of {name}", state)
        return copies

    def _own(
        self, shards: Iterable[Sequence[str]], copied: Callable[..., dict[str, Tensor]]
    ) -> dict[int, dict[str, Tensor]]:
        """What falls to this rank of shards that all ranks read together."""
        own: dict[int, dict[str, Tensor]] = {}
        for number, names in enumerate(shards):
            is_own = number % self._ranks.world_size == self._ranks.rank
            tensors = copied(names, is_own=is_own)
            if is_own:
                own[number] = tensors
        return own

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self._deepspeed.module.named_parameters() if p.requires_grad}
