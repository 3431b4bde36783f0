"""A run folder taken up again: the same settings go on, others are refused by name, `never` starts anew."""

from pathlib import Path

import pytest

from common.config.load import load_config
from common.config.run import OmniConfig
from common.errors import ConfigError
from deploy.preflight import RESULTS, make_run_folder, set_results_aside, take_up


def config_of(root: Path, *overrides: str) -> OmniConfig:
    """Of the run `a`."""
    return load_config(None, [f"--run.root={root}", "--run.name=a", *overrides])


def begun(root: Path, *overrides: str) -> Path:
    """The folder of a run that has left a ledger."""
    config = config_of(root, *overrides)
    folder = make_run_folder(config)
    take_up(folder, config)
    (folder / "ledger.jsonl").write_text("first")
    return folder


def test_the_same_settings_go_on_with_what_is_there(tmp_path: Path) -> None:
    folder = begun(tmp_path, "--learner.steps=7")
    take_up(folder, config_of(tmp_path, "--learner.steps=7"))
    assert (folder / "ledger.jsonl").read_text() == "first"
    assert not (folder / "earlier").exists()
    assert oct((folder / "samples").stat().st_mode & 0o777) == "0o700"


def test_the_settings_on_disk_are_those_of_the_run(tmp_path: Path) -> None:
    folder = begun(tmp_path, "--learner.steps=7", "--model.dtype=float32")
    assert load_config(str(folder / "config.yaml"), []) == config_of(
        tmp_path, "--learner.steps=7", "--model.dtype=float32"
    )


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["--learner.steps=8"], "learner.steps"),
        (["--run.seed=1", "--learner.optimizer.lr=1e-3"], "learner.optimizer.lr, run.seed"),
        (["--data.source={type: synthetic, seed: 1}"], "data.source.seed"),
        (["--data.source={type: r1_omni, path: a.json}"], "data.source.num_cold_start, data.source.num_heldout"),
        (["--learner.freeze=['*.bias']"], "learner.freeze"),
        (["--learner.max_staleness=1", "--learner.checkpoint.every_steps=3"], "learner.max_staleness"),
    ],
)
def test_settings_that_changed_are_refused_by_name(tmp_path: Path, overrides: list[str], keys: str) -> None:
    folder = begun(tmp_path)
    before = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="a resumed run must keep its settings") as caught:
        take_up(folder, config_of(tmp_path, *overrides))
    said = str(caught.value)
    assert f"got other values of {keys}" in said
    assert "\n" not in said
    assert "checkpoint" not in said
    assert "--run.resume never" in said
    # nothing was touched
    assert (folder / "config.yaml").read_text() == before
    assert (folder / "ledger.jsonl").read_text() == "first"


@pytest.mark.parametrize(
    "overrides",
    [
        ["--run.start_deadline_s=5"],
        ["--run.wandb_project=p"],
        ["--learner.checkpoint.every_steps=3", "--learner.checkpoint.keep=9"],
        ["--evaluation.policies=[grpo]", "--evaluation.max_in_flight=2"],
    ],
)
def test_settings_that_change_no_result_may_change(tmp_path: Path, overrides: list[str]) -> None:
    folder = begun(tmp_path)
    take_up(folder, config_of(tmp_path, *overrides))
    assert (folder / "ledger.jsonl").read_text() == "first"
    assert load_config(str(folder / "config.yaml"), []) == config_of(tmp_path, *overrides)


def test_a_run_that_is_never_resumed_starts_anew_with_any_settings(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    take_up(folder, config_of(tmp_path, "--run.resume=never", "--learner.steps=3"))
    assert not (folder / "ledger.jsonl").exists()
    assert (folder / "earlier" / "1" / "ledger.jsonl").read_text() == "first"
    assert load_config(str(folder / "earlier" / "1" / "config.yaml"), []) == config_of(tmp_path)
    # and what it leaves can be resumed without saying so again
    take_up(folder, config_of(tmp_path, "--learner.steps=3"))


def test_everything_an_earlier_run_left_is_set_aside_but_its_model_and_corpus(tmp_path: Path) -> None:
    assert set_results_aside(tmp_path) is None
    for run in (1, 2):
        for name in RESULTS:
            if "." in name:
                (tmp_path / name).write_text(f"run {run}")
            else:
                (tmp_path / name).mkdir()
                (tmp_path / name / "file").write_text(f"run {run}")
        for name in ("model-1a2b", "corpus"):
            (tmp_path / name).mkdir(exist_ok=True)
        assert set_results_aside(tmp_path) == tmp_path / "earlier" / str(run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "earlier", "model-1a2b"]
    for run in (1, 2):
        kept = tmp_path / "earlier" / str(run)
        assert sorted(p.name for p in kept.iterdir()) == sorted(RESULTS)
        assert (kept / "metrics.jsonl").read_text() == f"run {run}"
        assert (kept / "checkpoints" / "file").read_text() == f"run {run}"
