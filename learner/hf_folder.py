"""Writes a checkpoint that transformers and vLLM load: safetensors in shards, and all else copied."""

import json
import shutil
from collections.abc import Iterator, Mapping
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
    """Takes shards as they are gathered."""

    def __init__(self, folder: Path, *, source: Path) -> None:
        """Makes the folder.

        Args:
            folder: of the new checkpoint.
            source: the checkpoint that the policy came from: configuration, tokenizer and processor are copied, and
                tensors that the policy does not hold, such as a talker's.
        """
        self._folder, self._source = folder, source
        self._shards: list[tuple[str, list[str]]] = []
        folder.mkdir(mode=0o700, parents=True)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes one shard."""
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        name = f"part-{len(self._shards):05d}.safetensors"
        save_file(dict(tensors), self._folder / name, metadata={"format": "pt"})
        self._shards.append((name, list(tensors)))

    def close(self) -> None:
        """Carries over what the policy does not hold, and writes the index."""
        known = {name for _, names in self._shards for name in names}
        for path in sorted(self._source.glob("*.safetensors")):
            self._carry_over(path, known)
        for path in self._source.iterdir():
            if path.is_file() and path.suffix not in {".safetensors", ".bin"} and "index" not in path.name:
                shutil.copy2(path, self._folder / path.name)
        self._name_shards()

    def _carry_over(self, path: Path, known: set[str]) -> None:
        from safetensors import safe_open

        with cast(Any, safe_open)(path, framework="pt") as file:
            names = [name for name in cast(list[str], file.keys()) if name not in known]
            if names:
                self.add({name: cast(Tensor, file.get_tensor(name)) for name in names})

    def _name_shards(self) -> None:
        count = len(self._shards)
        if count == 1:
            (self._folder / self._shards[0][0]).rename(self._folder / "model.safetensors")
            return
        index: dict[str, str] = {}
        for number, (part, names) in enumerate(self._shards, start=1):
            final = f"model-{number:05d}-of-{count:05d}.safetensors"
            (self._folder / part).rename(self._folder / final)
            index |= dict.fromkeys(names, final)
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
        (self._folder / "model.safetensors.index.json").write_text(text + "\n")
