"""Writes a checkpoint that transformers and vLLM load: safetensors in shards, and all else copied."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from learner.partition import full_bytes

SHARD_BYTES = 2 * 2**30


def shards_of(parameters: Mapping[str, nn.Parameter]) -> Iterator[list[str]]:
    """Names in runs of at most a shard's size; a larger tensor has one of its own."""
    names: list[str] = []
    size = 0
    for name, parameter in parameters.items():
        if names and size + full_bytes(parameter) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += full_bytes(parameter)
    yield names


class HfWriter:
    """Writes shards, by whatever rank holds them, and all else."""

    def __init__(self, folder: Path, *, source: Path, shards: Sequence[Sequence[str]]) -> None:
        """Takes what is to be written.

        Args:
            folder: of the new checkpoint; made where it is missing.
            source: the checkpoint that the policy came from: configuration, tokenizer and processor are copied, and
                tensors that the policy does not hold, such as a talker's.
            shards: the names of each.
        """
        self._folder, self._source, self._shards = folder, source, shards
        known = {name for names in shards for name in names}
        carried = [(path, _names_in(path) - known) for path in sorted(source.glob("*.safetensors"))]
        self._carried = [(path, sorted(names)) for path, names in carried if names]
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes one shard."""
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        save_file(dict(tensors), self._folder / self._file(number), metadata={"format": "pt"})

    def write_rest(self) -> None:
        """Carries over what the policy does not hold, copies what stands beside weights, and writes the index."""
        from safetensors import safe_open

        for number, (path, names) in enumerate(self._carried, start=len(self._shards)):
            with cast(Any, safe_open)(path, framework="pt") as file:
                self.write(number, {name: cast(Tensor, file.get_tensor(name)) for name in names})
        for path in self._source.iterdir():
            if path.is_file() and path.suffix not in {".safetensors", ".bin"} and "index" not in path.name:
                shutil.copy2(path, self._folder / path.name)
        self._write_index()

    def _write_index(self) -> None:
        contents = [*self._shards, *(names for _, names in self._carried)]
        if len(contents) == 1:
            return
        index = {name: self._file(number) for number, names in enumerate(contents) for name in names}
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
        (self._folder / "model.safetensors.index.json").write_text(text + "\n")

    def _file(self, number: int) -> str:
        count = len(self._shards) + len(self._carried)
        return "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _names_in(path: Path) -> set[str]:
    from safetensors import safe_open

    with cast(Any, safe_open)(path, framework="pt") as file:
        return set(cast(list[str], file.keys()))
