"""Lets a CUDA build of torchvision import beside a CPU build of torch.

Its compiled part cannot load there, and its Python part then fails on two operators without a schema. This hook
declares them when torchvision is first imported. `deploy.environment.repair` copies it into the environment, with a
`.pth` file, only if it is needed; so it stands alone and imports nothing heavy.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []


class TorchvisionSchemas(importlib.abc.MetaPathFinder):
    """An import hook that acts once, just before torchvision is found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for schema in SCHEMAS:
                library.define(schema)
            # the operators vanish with their library
            _libraries.append(library)
        return None


def install() -> None:
    """Installs the hook as the first finder; may be repeated."""
    if "torchvision" in sys.modules or any(isinstance(f, TorchvisionSchemas) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, TorchvisionSchemas())


install()
