"""A checkpoint for transformers and vLLM: every tensor once, in shards, with what the source held besides."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import learner.hf_folder
from learner.hf_folder import HfWriter, shards_of


def source_of(folder: Path, *files: dict[str, Tensor]) -> Path:
    """A checkpoint with these weight files, and what stands beside weights."""
    folder.mkdir()
    for number, tensors in enumerate(files):
        save_file(tensors, folder / f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    (folder / "merges.txt").write_text("a b")
    (folder / "subfolder").mkdir()
    return folder


def whole(folder: Path) -> dict[str, Tensor]:
    """Every tensor as a loader finds it: by the index where there is one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    files = {name: load_file(folder / name) for name in set(weight_map.values())}
    assert sum(len(tensors) for tensors in files.values()) == len(weight_map)
    return {name: files[file][name] for name, file in weight_map.items()}


def write(folder: Path, source: Path, *parts: dict[str, Tensor]) -> None:
    """All shards, and the rest."""
    writer = HfWriter(folder, source=source, shards=[list(part) for part in parts])
    for number, part in enumerate(parts):
        writer.write(number, part)
    writer.write_rest()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Names, types and bits."""
    return found.keys() == expected.keys() and all(
        found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in expected.items()
    )


def test_one_shard_is_one_file(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(2)})
    trained = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]], dtype=torch.bfloat16)}
    write(tmp_path / "new", source, trained)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
    ]
    assert same(whole(tmp_path / "new"), trained)
    assert (tmp_path / "new" / "config.json").read_text() == '{"architectures": ["X"]}'
    assert oct((tmp_path / "new").stat().st_mode & 0o777) == "0o700"


def test_shards_are_named_and_indexed(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    parts = [{"a": torch.tensor([1.0])}, {"b": torch.tensor([2.0]), "c": torch.tensor([3.0])}]
    write(tmp_path / "new", source, *parts)
    index: dict[str, Any] = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "c": "model-00002-of-00002.safetensors",
    }
    assert same(whole(tmp_path / "new"), {**parts[0], **parts[1]})


def test_what_the_policy_does_not_hold_is_carried_over_from_every_file_of_the_source(tmp_path: Path) -> None:
    old = torch.full((2,), -1.0)
    talker, vocoder = torch.tensor([7.0], dtype=torch.bfloat16), torch.tensor([8], dtype=torch.int64)
    source = source_of(tmp_path / "source", {"a": old, "talker.x": talker}, {"b": old}, {"vocoder": vocoder})
    before = {p.name: p.read_bytes() for p in source.glob("*.safetensors")}
    trained = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    write(tmp_path / "new", source, trained)
    assert same(whole(tmp_path / "new"), {**trained, "talker.x": talker, "vocoder": vocoder})
    assert {p.name: p.read_bytes() for p in source.glob("*.safetensors")} == before


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3, 3, 4, 1], [["p0", "p1", "p2"], ["p3"]]),
        ([10], [["p0"]]),
        ([1, 50, 1, 1], [["p0"], ["p1"], ["p2", "p3"]]),
        ([6, 6, 6], [["p0"], ["p1"], ["p2"]]),
    ],
)
def test_shards_hold_as_much_as_fits_and_keep_the_order(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], expected: list[list[str]]
) -> None:
    monkeypatch.setattr(learner.hf_folder, "SHARD_BYTES", 40)
    parameters = {f"p{i}": nn.Parameter(torch.zeros(size)) for i, size in enumerate(sizes)}
    assert list(shards_of(parameters)) == expected


def test_a_policy_saved_is_the_policy_loaded(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.models.qwen2_5_omni.policy import load_policy
    from common.models.registry import family_of

    monkeypatch.setattr(learner.hf_folder, "SHARD_BYTES", 200_000)
    policy = load_policy(tiny, dtype=torch.float32)
    parameters = dict(policy.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(1.0)
    parts = [{name: parameters[name].detach() for name in names} for names in shards_of(parameters)]
    write(tmp_path / "hf", Path(tiny), *parts)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 2
    assert family_of(tmp_path / "hf").name == "qwen2_5_omni"
    again = dict(load_policy(str(tmp_path / "hf"), dtype=torch.float32).named_parameters())
    assert same(again, {n: p.detach() for n, p in parameters.items()})
    # nothing that the source held is lost
    assert whole(tmp_path / "hf").keys() == load_file(Path(tiny) / "model.safetensors").keys()
