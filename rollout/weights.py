"""The receiving end of a publish, inside vLLM's worker.

`SharedMemoryReceiver` is a vLLM weight-transfer engine that reads buckets from a shared-memory segment. It keeps a
receipt of every tensor that it passes to `load_weights`, and refuses a partial layer: vLLM would rebuild the rest
from uninitialised memory.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,  # pyright: ignore[reportUnknownVariableType]
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import (
    _place_kernel_tensors,  # pyright: ignore[reportPrivateUsage]
    get_layerwise_info,
)

from common.errors import ReceiveError
from common.models.noise import perturbed
from common.runtime import provenance
from common.shared_memory import Segment, local_segment, receipt_of
from common.types import TensorReceipt

BACKEND = "omni_shared_memory"


@dataclass
class BucketInfo(WeightTransferUpdateInfo):
    path: str
    bucket: int


class SharedMemoryReceiver(WeightTransferEngine[WeightTransferInitInfo, BucketInfo]):
    """Loads buckets of whole layers from shared memory."""

    init_info_cls = WeightTransferInitInfo
    update_info_cls = BucketInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._segments: dict[str, Segment] = {}
        self.receipts: list[TensorReceipt] = []

    def init_transfer_engine(self, init_info: WeightTransferInitInfo) -> None:
        """Does nothing: each bucket names its segment."""

    def start_weight_update(self) -> None:
        """Opens an update, in which each layer receives all of its elements or none."""
        self.receipts = []
        self._forget_removed_segments()
        # a failed update leaves layers open; the next complete publish repairs their weights
        self._abandon_open_layers()
        initialize_layerwise_reload(self.model)
        for layer in self.model.modules():
            if isinstance(layer, VocabParallelEmbedding):
                # the rows that pad the vocabulary never arrive: without this the layer would stay open and keep
                # views of a segment that the sender overwrites
                cast(Any, layer).weight.weight_loader_numel = _loadable_numel(layer)

    def receive_weights(self, update_info: BucketInfo) -> None:
        """Loads one bucket; raises `ReceiveError` if it ends inside a layer."""
        segment = self._segments.get(update_info.path)
        if segment is None:
            segment = self._segments[update_info.path] = Segment(local_segment(update_info.path))
        self.receipts += segment.manifest()
        cast(Any, self.model).load_weights(segment.read().items())
        self._require_whole_layers(f"bucket {update_info.bucket}")

    def receive_perturbed(self, names: Sequence[str], *, scale: float, nonce: int) -> None:
        """Loads tensors of the engine's own checkpoint with noise, or nothing if it lacks one of them."""
        stored = _stored(Path(self.model_config.model))
        if not stored.keys() >= set(names):
            return
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            tensor = cast(torch.Tensor, stored[name].get_tensor(name)).to(self.model_config.dtype)
            tensors[name] = perturbed(name, tensor, scale=scale, nonce=nonce)
        self.receipts += [receipt_of(name, tensor) for name, tensor in tensors.items()]
        cast(Any, self.model).load_weights(tensors.items())
        self._require_whole_layers("a bucket with noise")

    def finish_weight_update(self) -> None:
        """Closes the update and repacks tied heads; raises `ReceiveError` for a partial layer."""
        self._require_whole_layers("the update")
        finalize_layerwise_reload(self.model, self.model_config)
        repack_tied_heads(self.model)

    def shutdown(self) -> None:
        # the sender removes the segments
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def _forget_removed_segments(self) -> None:
        # ranks that were rebuilt have new segments; a mapping would keep the memory of the old ones
        for path in [path for path in self._segments if not os.path.exists(path)]:
            self._segments.pop(path).close()

    def _abandon_open_layers(self) -> None:
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():
                if info.kernel_tensors is not None:
                    _place_kernel_tensors(layer, info)
                info.reset()

    def _require_whole_layers(self, what: str) -> None:
        layers = cast(Iterable[tuple[str, torch.nn.Module]], self.model.named_modules())
        for name, layer in layers:
            info = get_layerwise_info(layer)
            if info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0):
                raise ReceiveError(
                    f"{what} must hold whole layers, got {info.load_numel} of {info.load_numel_total} elements "
                    f"of {name}; publish every tensor that the engine fuses into it together"
                )


def _stored(folder: Path) -> dict[str, Any]:
    """The open safetensors file of each tensor of a checkpoint."""
    files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping


def _loadable_numel(layer: VocabParallelEmbedding) -> int:
    rows = layer.shard_indices.org_vocab_end_index - layer.shard_indices.org_vocab_start_index
    return rows * cast(Any, layer).weight.shape[1]


def repack_tied_heads(model: torch.nn.Module) -> None:
    """Rebuilds the packed copy that vLLM's CPU kernels keep of a tied `lm_head`."""
    # the layerwise reload repacks only layers that received elements; a tied head's arrive as the embedding's
    embeddings = {
        id(m.weight)
        for m in model.modules()
        if isinstance(m, VocabParallelEmbedding) and not isinstance(m, ParallelLMHead)
    }
    for module in model.modules():
        if isinstance(module, ParallelLMHead) and id(module.weight) in embeddings:
            module.quant_method.process_weights_after_loading(module)


class ReceiptExtension:
    """Mixed into vLLM's worker."""

    weight_transfer_engine: SharedMemoryReceiver
    vllm_config: VllmConfig

    def abandon_update(self) -> None:
        """Forgets an unfinished update, because of which vLLM would refuse the next."""
        self._weight_update_active = False

    def heartbeat(self) -> int:
        return os.getpid()

    def receive_perturbed(self, names: Sequence[str], scale: float, nonce: int) -> None:
        with set_current_vllm_config(self.vllm_config):
            self.weight_transfer_engine.receive_perturbed(names, scale=scale, nonce=nonce)

    def sources(self) -> dict[str, str]:
        return provenance.sources()

    def weight_receipts(self) -> list[tuple[str, list[int], str, str]]:
        """Name, shape, dtype and digest of every tensor of the current or last update."""
        return [(r.name, list(r.shape), r.dtype, r.digest) for r in self.weight_transfer_engine.receipts]
