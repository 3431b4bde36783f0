"""A checkpoint for transformers and vLLM: every tensor once, in shards, with what the source held besides."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import learner.checkpoints.hf_folder
from learner.checkpoints.hf_folder import HfWriter, shards_of


def source_of(folder: Path, *files: dict[str, Tensor]) -> Path:
    """A checkpoint with these weight files, and what stands beside weights."""
    folder.mkdir()
    for number, tensors in enumerate(files):
        save_file(tensors, folder / f"model-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    (folder / "merges.txt").write_text("a b")
    (folder / "empty").mkdir()
    return folder


def files_of(folder: Path) -> dict[str, str]:
    """Text of every file below a folder, by its path; the weights and their index left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not (path.parent == folder and path.name.startswith("model"))
    }


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
    monkeypatch.setattr(learner.checkpoints.hf_folder, "SHARD_BYTES", 40)
    parameters = {f"p{i}": nn.Parameter(torch.zeros(size)) for i, size in enumerate(sizes)}
    assert list(shards_of(parameters)) == expected


def test_a_policy_saved_is_the_policy_loaded(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from common.models.qwen2_5_omni.policy import load_policy
    from common.models.registry import family_of

    monkeypatch.setattr(learner.checkpoints.hf_folder, "SHARD_BYTES", 200_000)
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


def written(tmp_path: Path, source: Path, *, target: str = "new") -> Path:
    """The folder that a policy of one tensor from this source is saved to."""
    write(tmp_path / target, source, {"a": torch.ones(1)})
    return tmp_path / target


def test_sub_folders_are_copied_whole(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (source / "second" / "deep").mkdir(parents=True)
    (source / "second" / "deep" / "vocab_index.json").write_text("{}")
    (source / "word_index.json").write_text("[]")
    assert files_of(written(tmp_path, source)) == {
        "config.json": '{"architectures": ["X"]}',
        "merges.txt": "a b",
        "additional_chat_templates/tool_use.jinja": "{{ tools }}",
        "second/deep/vocab_index.json": "{}",
        "word_index.json": "[]",
    }


def test_old_weights_and_bookkeeping_of_downloads_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    (source / "spk_dict.pt").write_text("speakers")
    for name in (
        "original/consolidated.00.pth",
        "fp16/model-00001-of-00002.safetensors",
        "fp16/model.safetensors.index.json",
        "onnx/model.onnx",
        "checkpoint-500/optimizer.pt",
        ".git/lfs/objects/0a",
        ".cache/huggingface/download/config.json.metadata",
        "model.gguf",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("old")
    (source / "fp16" / "tokenizer.json").write_text("{}")
    new = written(tmp_path, source)
    assert sorted(files_of(new)) == ["config.json", "fp16/tokenizer.json", "merges.txt", "spk_dict.pt"]
    assert [p.name for p in new.rglob("*.safetensors")] == ["model.safetensors"]
    for name in ("original/consolidated.00.pth", "onnx/model.onnx", "checkpoint-500/optimizer.pt", "model.gguf"):
        assert name in caplog.text
    assert "pytorch_model.bin" not in caplog.text, "what the new weights replace is not missed"


def test_links_become_what_they_point_to(tmp_path: Path) -> None:
    """As in a snapshot of the Hugging Face cache, whose files all are links."""
    blobs, source = tmp_path / "blobs", tmp_path / "snapshots" / "17cafca"
    blobs.mkdir()
    (source / "second").mkdir(parents=True)
    for number, name in enumerate(("config.json", "second/tokenizer.json")):
        (blobs / str(number)).write_text(name)
        depth = len(Path(name).parts) + 1
        (source / name).symlink_to(Path(*[".."] * depth, "blobs", str(number)))
    save_file({"a": torch.zeros(1), "b": torch.full((1,), 2.0)}, blobs / "weights")
    (source / "model.safetensors").symlink_to(blobs / "weights")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "vocab.json").write_text("{}")
    (source / "third").symlink_to(tmp_path / "elsewhere")
    new = written(tmp_path, source)
    assert not [path for path in new.rglob("*") if path.is_symlink()]
    assert files_of(new) == {
        "config.json": "config.json",
        "second/tokenizer.json": "second/tokenizer.json",
        "third/vocab.json": "{}",
    }
    assert same(whole(new), {"a": torch.ones(1), "b": torch.full((1,), 2.0)})


@pytest.mark.parametrize("target", [".", "..", "../second", "missing"])
def test_a_link_that_leads_back_or_nowhere_is_left_out_and_logged(
    target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    (source / "second").mkdir()
    (source / "second" / "vocab.json").write_text("{}")
    (source / "second" / "link").symlink_to(target)
    assert sorted(files_of(written(tmp_path, source))) == ["config.json", "merges.txt", "second/vocab.json"]
    assert "second/link" in caplog.text


def test_links_that_lead_back_by_way_of_another_tree_end(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.json").write_text("{}")
    (source / "there").symlink_to(other)
    (other / "back").symlink_to(source)
    assert sorted(files_of(written(tmp_path, source))) == ["config.json", "merges.txt", "there/vocab.json"]


def test_runs_below_the_model_s_folder_are_not_copied_into_their_checkpoints(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", {"a": torch.zeros(1)})
    run = source / "runs" / "first"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("{}")
    assert sorted(files_of(written(run, source, target="hf"))) == ["config.json", "merges.txt"]


def test_a_second_tokenizer_in_a_sub_folder_loads_as_itself(tiny: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    def saved(folder: Path, model: Path) -> Path:
        parameters = {name: nn.Parameter(tensor) for name, tensor in whole(model).items()}
        write(folder, model, {name: parameter.detach() for name, parameter in parameters.items()})
        return folder

    source = saved(tmp_path / "source", Path(tiny))
    first = AutoTokenizer.from_pretrained(source)
    second = PreTrainedTokenizerFast(tokenizer_object=first.backend_tokenizer)
    second.add_tokens(["<only-in-the-second>"])
    second.save_pretrained(source / "second")
    # a checkpoint of a checkpoint, as the reinforcement keeps one of what the cold start left
    again = saved(tmp_path / "again", saved(tmp_path / "hf", source))
    found = AutoTokenizer.from_pretrained(again, subfolder="second")
    assert len(found) == len(second) == len(first) + 1
    assert found.convert_tokens_to_ids("<only-in-the-second>") == len(first)
    assert len(AutoTokenizer.from_pretrained(again)) == len(first)
