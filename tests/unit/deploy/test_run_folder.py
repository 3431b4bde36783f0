"""A run folder taken up again: the same settings resume, others are refused, `never` starts from scratch."""

import os
from pathlib import Path

import pytest

from common.config.load import load_config
from common.config.run import OmniConfig
from common.errors import ConfigError
from deploy.run_folder import (
    RESULTS,
    check_run_folder,
    has_results,
    hold_run_folder,
    make_run_folder,
    set_results_aside,
    take_up,
)


def config_of(root: Path, *overrides: str) -> OmniConfig:
    """Of the run `a`."""
    return load_config(None, [f"--run.root={root}", "--run.name=a", *overrides])


def begun(root: Path, *overrides: str) -> Path:
    """The folder of a run that has left a ledger and a checkpoint."""
    folder = started(root, *overrides)
    (folder / "ledger.jsonl").write_text("first")
    (folder / "checkpoints" / "step_000001").mkdir(parents=True)
    return folder


def started(root: Path, *overrides: str) -> Path:
    """The folder of a run that has left nothing but its settings."""
    config = config_of(root, *overrides)
    folder = make_run_folder(config)
    take_up(folder, config)
    return folder


def refusal(folder: Path, config: OmniConfig) -> str:
    """The one line, said by a run and by its dry run alike."""
    said: list[str] = []
    for check in (lambda: take_up(folder, config), lambda: check_run_folder(config)):
        with pytest.raises(ConfigError) as caught:
            check()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert "--run.resume never" in said[0]
    return said[0]


@pytest.mark.parametrize(
    ("result", "is_one"),
    [
        ("cold_start/manifest.json", True),
        ("checkpoints/step_000002/state.json", True),
        ("eval/untrained.json", True),
        ("metrics.jsonl", True),
        ("cold_start.partial/ledger.jsonl", False),
        ("checkpoints/step_000002.partial/state.json", False),
        ("eval/untrained.jsonl", False),
        ("ledger.jsonl", False),
    ],
)
def test_settings_are_compared_once_something_was_made_with_them(tmp_path: Path, result: str, is_one: bool) -> None:
    folder = started(tmp_path)
    other = config_of(tmp_path, "--learner.optimizer.lr=1e-3")
    (folder / result).parent.mkdir(parents=True, exist_ok=True)
    (folder / result).write_text("x")
    assert has_results(folder) == is_one
    if is_one:
        assert "learner.optimizer.lr: 1e-06 before, 0.001 now" in refusal(folder, other)
        return
    take_up(folder, other)
    assert load_config(str(folder / "config.yaml"), []) == other


def test_the_same_settings_resume_what_is_there(tmp_path: Path) -> None:
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
    ("overrides", "differing"),
    [
        (
            ["--run.seed=1", "--learner.optimizer.lr=1e-3"],
            "(learner.optimizer.lr: 1e-06 before, 0.001 now; run.seed: 0 before, 1 now)",
        ),
        (["--data.source={type: synthetic, seed: 1}"], "(data.source.seed: 0 before, 1 now)"),
        (["--data.source={type: r1_omni, path: a.json}"], "(data.source.type: synthetic before, r1_omni now)"),
        (["--data.question=Why?\nHow?"], '(data.question: null before, "Why?\\nHow?" now)'),
        (["--learner.freeze=['*.bias']"], "(learner.freeze: [] before, [*.bias] now)"),
        (
            ["--learner.max_staleness=1", "--learner.checkpoint.every_steps=3", "--learner.steps=8"],
            "(learner.max_staleness: 0 before, 1 now)",
        ),
    ],
)
def test_settings_that_changed_are_refused_with_both_values(
    tmp_path: Path, overrides: list[str], differing: str
) -> None:
    folder = begun(tmp_path)
    before = (folder / "config.yaml").read_text()
    said = refusal(folder, config_of(tmp_path, *overrides))
    assert said.startswith(f"a resumed run must keep its settings, got other values than in {folder}/config.yaml ")
    assert differing in said
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
        ["--learner.deadline_s=9", "--rollout.deadline_s=9", "--data.deadline_s=9", "--reward.deadline_s=90"],
        ["--learner.publish.deadline_s=9", "--learner.num_cpus=0.1", "--rollout.num_gpus=1"],
        ["--rollout.kv_cache_gib=1", "--rollout.gpu_memory_utilization=0.5", "--data.cache_gib=0"],
        ["--rollout.num_engines=2", "--rollout.max_num_seqs=8", "--learner.max_rows_per_micro_batch=1"],
    ],
)
def test_settings_that_change_no_result_may_change(tmp_path: Path, overrides: list[str]) -> None:
    folder = begun(tmp_path)
    take_up(folder, config_of(tmp_path, *overrides))
    assert (folder / "ledger.jsonl").read_text() == "first"
    assert load_config(str(folder / "config.yaml"), []) == config_of(tmp_path, *overrides)


def test_a_corpus_may_have_moved(tmp_path: Path) -> None:
    source = ["--data.source.type=r1_omni", "--data.source.path=a.json"]
    folder = begun(tmp_path, *source)
    take_up(folder, config_of(tmp_path, *source, "--data.source.media_root=/elsewhere"))
    assert "data.source.path: a.json before, b.json now" in refusal(
        folder, config_of(tmp_path, "--data.source.type=r1_omni", "--data.source.path=b.json")
    )


def test_a_run_folder_may_have_moved(tmp_path: Path) -> None:
    begun(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    take_up(tmp_path / "b" / "a", config_of(tmp_path / "b"))


def test_a_run_may_be_made_longer_where_that_changes_no_rate_of_its_steps(tmp_path: Path) -> None:
    constant = "--learner.optimizer.schedule=constant"
    folder = begun(tmp_path / "constant", constant, "--learner.steps=7")
    take_up(folder, config_of(tmp_path / "constant", constant, "--learner.steps=9"))
    # a schedule that no step was taken with may be stretched
    folder = started(tmp_path / "cold", "--learner.steps=7")
    (folder / "cold_start").mkdir()
    take_up(folder, config_of(tmp_path / "cold", "--learner.steps=9"))
    folder = begun(tmp_path / "linear", "--learner.steps=7")
    said = refusal(folder, config_of(tmp_path / "linear", "--learner.steps=9"))
    assert said.startswith(
        "learner.steps may be raised only with a constant schedule, got 7 before, 9 now with "
        "learner.optimizer.schedule=linear; "
    )


def test_settings_that_cannot_be_read_are_said_in_one_line(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    (folder / "config.yaml").write_text("a: [\nb")
    assert f"{folder}/config.yaml" in refusal(folder, config_of(tmp_path))


def test_a_setting_that_an_older_version_did_not_have_is_at_its_default(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("  beta: 0.04\n", ""))
    take_up(folder, config_of(tmp_path))
    path.write_text(path.read_text().replace("  beta: 0.04\n", ""))
    assert "learner.beta: 0.04 before, 0.5 now" in refusal(folder, config_of(tmp_path, "--learner.beta=0.5"))


def test_a_check_of_the_folder_writes_nothing(tmp_path: Path) -> None:
    assert check_run_folder(config_of(tmp_path / "runs")) == f"{tmp_path}/runs/a, no results yet"
    assert list(tmp_path.iterdir()) == []
    folder = begun(tmp_path)
    before = sorted(p.name for p in folder.rglob("*"))
    assert check_run_folder(config_of(tmp_path)) == f"{folder}, resumes from earlier results"
    assert "set aside" in check_run_folder(config_of(tmp_path, "--run.resume=never", "--run.seed=3"))
    assert sorted(p.name for p in folder.rglob("*")) == before


def test_a_check_of_the_folder_says_what_a_run_would(tmp_path: Path) -> None:
    folder = started(tmp_path)
    with hold_run_folder(folder), pytest.raises(ConfigError, match=r"run\.name must be free, got 'a'"):
        check_run_folder(config_of(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run\.root must be writable, got .*/file/runs'.*choose another folder"):
        check_run_folder(config_of(tmp_path / "file" / "runs"))


def test_a_closed_root_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing is closed to root, who may run this
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match=r"run\.root must be writable"):
        check_run_folder(config_of(tmp_path))


def test_a_run_that_is_never_resumed_starts_from_scratch_with_any_settings(tmp_path: Path) -> None:
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
