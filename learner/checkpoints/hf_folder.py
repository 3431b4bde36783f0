"""A model folder for transformers and vLLM: weights in shards of safetensors, and copies of the other files."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from learner.checkpoints.shard_writer import StoredTensors
from learner.zero.parameters import full_bytes

logger = logging.getLogger(__name__)
SHARD_BYTES = 2 * 2**30
REPLACED, INDEX = {".safetensors", ".bin"}, re.compile(r"\.(safetensors|bin)\.index\.")
"""Weights that a new checkpoint replaces, and the index of their shards."""
FOREIGN = {".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf"}
"""The untrained model's weights in other formats."""
NESTED = {*REPLACED, ".pt"}
"""Weights in a sub-folder; a `.pt` beside the model is Qwen2.5-Omni's table of speakers."""


def shards_of(parameters: Mapping[str, nn.Parameter]) -> Iterator[list[str]]:
    """Names of each shard, in order; a tensor larger than a shard has its own."""
    names: list[str] = []
    size = 0
    for name, parameter in parameters.items():
        if names and size + full_bytes(parameter) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += full_bytes(parameter)
    yield names


def kept_files(source: Path, *, target: Path) -> Iterator[Path]:
    """Files below a model folder that the new checkpoint `target` copies, as relative paths.

    Left out, and named in the log unless replaced, are weights, folders that contain the target, and links that
    lead back or nowhere; hidden folders (`.git`, `.cache`) are left out too. Other links are followed.
    """
    left_out: list[Path] = []
    for folder, names, files in os.walk(source, followlinks=True, onerror=_raise):
        place = Path(folder)
        enclosing = {parent.resolve() for path in (place, target.resolve()) for parent in (path, *path.parents)}
        left_out += [place / name for name in names if (place / name).resolve() in enclosing]
        names[:] = [name for name in sorted(names) if name[0] != "." and place / name not in left_out]
        for path in (place / name for name in sorted(files)):
            if path.suffix in FOREIGN or (place != source and path.suffix in NESTED) or not path.is_file():
                left_out.append(path)
            elif path.suffix not in REPLACED and not INDEX.search(path.name):
                yield path.relative_to(source)
    if left_out:
        paths = ", ".join(str(path.relative_to(source)) for path in left_out)
        logger.warning("not copied into the checkpoint %s: %s", target, paths)


def _raise(error: OSError) -> None:
    raise error


class HfWriter:
    """Writes the shards of a new model folder, on any rank, and the other files.

    The `source` is the policy's own checkpoint: its other files (`kept_files`) are copied, and its tensors that the
    policy does not hold, such as a talker's. `shards` are the names of each shard.
    """

    def __init__(self, folder: Path, *, source: Path, shards: Sequence[Sequence[str]]) -> None:
        self._folder, self._source, self._shards = folder, source, shards
        known = {name for names in shards for name in names}
        files = [StoredTensors(path) for path in sorted(source.glob("*.safetensors"))]
        self._carried = [(file, sorted(names)) for file in files if (names := file.keys() - known)]
        folder.mkdir(mode=0o700, exist_ok=True)

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        save_file(dict(tensors), self._folder / self._file(number), metadata={"format": "pt"})

    def write_rest(self) -> None:
        """Writes the source's other tensors, its other files, and the index."""
        for number, (file, names) in enumerate(self._carried, start=len(self._shards)):
            self.write(number, {name: file[name] for name in names})
        for path in kept_files(self._source, target=self._folder):
            target = self._folder / path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(self._source / path, target)
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
