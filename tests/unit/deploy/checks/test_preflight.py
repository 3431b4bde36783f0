"""Models and run folders that are checked before anything starts."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from common.config.load import load_config
from common.errors import ConfigError, DatasetError, ModelError
from common.models.registry import family_of
from common.types import Clip, Record
from deploy.checks.preflight import _require_askable, check_inputs, resolve_model
from deploy.run_folder import hold_run_folder, make_run_folder

ARCHITECTURE = "Qwen2_5OmniForConditionalGeneration"


def checkpoint(folder: Path, *, config: str | None, weights: bytes | None = b"weights") -> Path:
    """A folder that looks like one."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(config)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def complaint(folder: Path) -> str:
    """The one line about a model folder."""
    with pytest.raises(ModelError) as caught:
        family_of(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert str(folder) in said
    assert ";" in said
    return said


def test_a_real_checkpoint_has_its_family(tiny: str) -> None:
    assert family_of(tiny).name == "qwen2_5_omni"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "must be a folder" in complaint(tmp_path / "none")


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    assert "must hold a config.json" in complaint(checkpoint(tmp_path / "m", config=None))


@pytest.mark.parametrize("weights", [None, b""])
def test_a_folder_without_weights_is_named(tmp_path: Path, weights: bytes | None) -> None:
    folder = checkpoint(tmp_path / "m", config=json.dumps({"architectures": [ARCHITECTURE]}), weights=weights)
    assert "must hold *.safetensors weights" in complaint(folder)


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ('{"architectures": ["LlamaForCausalLM"]}', "LlamaForCausalLM"),
        ('{"architectures": []}', "none"),
        ("{}", "none"),
        ('{"architectures": 5}', "5"),
        ('{"architectures": [5]}', "5"),
    ],
)
def test_another_architecture_is_named(tmp_path: Path, config: str, shown: str) -> None:
    said = complaint(checkpoint(tmp_path / "m", config=config))
    assert "model.path must be one of" in said
    assert f"got {shown}" in said.replace("'", "")


@pytest.mark.parametrize("config", ["[1]", "null", "{", ""])
def test_a_configuration_that_is_no_object_is_named(tmp_path: Path, config: str) -> None:
    assert "must be a JSON object" in complaint(checkpoint(tmp_path / "m", config=config))


def test_a_given_model_is_resolved_and_checked(tiny: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tiny)
    assert resolve_model(load_config(None, ["--model.path", str(link)]), tmp_path) == tiny
    with pytest.raises(ModelError, match="must be a folder"):
        resolve_model(load_config(None, ["--model.path", str(tmp_path / "none")]), tmp_path)


def test_a_tiny_model_is_built_once_and_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import common.models.qwen2_5_omni.tiny as tiny_module

    built: list[Path] = []

    def build(target: Path, **settings: object) -> Path:
        built.append(target)
        assert settings["seed"] == 4
        return checkpoint(target, config=json.dumps({"architectures": [ARCHITECTURE]}))

    monkeypatch.setattr(tiny_module, "build_tiny_checkpoint", build)
    config = load_config(None, ["--run.seed=4"])
    assert resolve_model(config, tmp_path) == resolve_model(config, tmp_path) == str(next(tmp_path.glob("model-*")))
    assert len(built) == 1
    (whole,) = tmp_path.iterdir()
    assert built[0] != whole, "what is there is whole"
    # another tiny model is built, not mistaken for this one
    resolve_model(load_config(None, ["--run.seed=4", "--model.tiny.hidden_size=64"]), tmp_path)
    assert len(built) == 2


def test_a_run_folder_is_its_owners_alone(tmp_path: Path) -> None:
    config = load_config(None, ["--run.root", str(tmp_path / "runs"), "--run.name", "a"])
    folder = make_run_folder(config)
    assert folder == tmp_path / "runs" / "a"
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    # a second time is no mistake
    assert make_run_folder(config) == folder


def test_two_runs_of_one_name_keep_out_of_each_others_folder(tmp_path: Path) -> None:
    with (
        hold_run_folder(tmp_path),
        pytest.raises(ConfigError, match=r"run\.name must be free"),
        hold_run_folder(tmp_path),
    ):
        pass
    with hold_run_folder(tmp_path):
        pass


def test_a_root_that_is_a_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.root must be writable"):
        make_run_folder(load_config(None, ["--run.root", str(tmp_path / "file")]))


def test_wandb_that_is_not_installed_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    config = load_config(None, ["--run.wandb_project=emotions"])
    for _ in ("nothing", "a folder of its files"):
        with pytest.raises(ConfigError) as caught:
            check_inputs(config)
        assert str(caught.value) == (
            "run.wandb_project must be empty without wandb, got 'emotions'; pip install 'omni-rlvr[wandb]' or drop "
            "the project"
        )
        (tmp_path / "wandb").mkdir(exist_ok=True)
        importlib.invalidate_caches()
    check_inputs(load_config(None, []))
    (tmp_path / "wandb" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    check_inputs(config)


def test_sounds_are_swapped_within_each_dataset_or_it_is_said_before_anything_starts() -> None:
    def records(dataset: str, *labels: str) -> list[Record]:
        clip = Clip(clip_id="", video_path="v.mp4", audio_path="s.wav")
        return [
            Record(prompt_id=str(i), clip=clip, question="How?", label=label, dataset=dataset, split="heldout")
            for i, label in enumerate(labels)
        ]

    config = load_config(None, ["--evaluation.policies", "[grpo]", "--evaluation.controls", "[swapped_audio]"])
    balanced = records("dfew", "sad", "happy", "fear", "angry")
    _require_askable(balanced, config)
    # of all clips together no label has more than half
    with pytest.raises(DatasetError, match="more than half of the clips, got 'sad' on 2 of 3"):
        _require_askable([*balanced, *records("mafw", "sad", "sad", "happy")], config)
