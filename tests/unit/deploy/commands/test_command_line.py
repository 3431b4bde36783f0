"""The command line where it ends before Ray starts: what it prints, what it returns, how a mistake reads."""

import asyncio
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config.corpora import SourceConfig
from common.config.load import load_config
from common.config.run import OmniConfig
from common.datasets.corpus import Corpus
from common.errors import ClusterError, ConfigError, LearnerError, PublishError, StopRequestedError
from common.runtime.provenance import installed_version
from deploy.checks.machine import this_machine
from deploy.commands.command_line import FAILURE, INTERRUPTED, USER_MISTAKE, run_command
from deploy.commands.sft import main as sft_main
from deploy.commands.train import main
from deploy.run_folder import take_up

DEMO = "deploy/configs/demo.yaml"
GIVEN = ("--model.tiny.num_layers=2", "--data.max_fps=12.0")
"""A model and data, at their defaults."""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run sets variables of its process: they are put back."""
    from deploy.wiring import QUIET

    for name, value in QUIET.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    monkeypatch.setenv("OMNI_RLVR_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr."""
    import ray

    assert main(argv) == USER_MISTAKE == 2
    assert not ray.is_initialized()
    said = capsys.readouterr().err
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")
    return said


def test_help_lists_keys_and_returns_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-h"]) == 0
    shown = capsys.readouterr()
    assert "--config FILE" in shown.out
    assert "--learner.optimizer.lr 1e-06\n      Peak learning rate." in shown.out
    assert "--sft.optimizer.lr 2e-05\n" in shown.out
    assert "One of: sequence | token | constant." in shown.out
    assert "\n\nlearner: Ranks, loss and optimizer.\n" in shown.out
    assert "--data.source.num_train 560 (type synthetic)" in shown.out
    assert "--data.source.path (type r1_omni, must be given)" in shown.out
    assert "      {type: python, name: NAME, weight: 1.0, " in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120
    assert shown.err == ""


def test_a_dry_run_prints_what_would_run_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--dry-run", "--learner.num_ranks", "4", "--rollout.num_cpus=1.5"]) == 0
    shown = capsys.readouterr().out
    tree, _, plan = shown.partition("\nactor ")
    resolved = load_config(None, ["--learner.num_ranks=4", "--rollout.num_cpus=1.5"])
    assert yaml.safe_load(tree) == resolved.model_dump(mode="json")
    lines = [line.split() for line in plan.splitlines()[1:]]
    assert ["rollout", "engine", "1", "1.5", "0", "1"] in lines
    assert ["learner", "rank", "4", "0.5", "0", "1"] in lines
    assert not (tmp_path / "runs").exists()


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"omni-rlvr {installed_version()}\n"


def test_help_names_what_keeps_it_from_a_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_RLVR_RUNS", "runs")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert "run.root must be absolute" in mistake(capsys, "--help")


def test_a_dry_run_says_what_is_there_and_what_lacks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    turns = [{"value": "<video>"}, {"value": "sad"}]
    (tmp_path / "a.mp4").write_text("")
    (tmp_path / "t.json").write_text(
        json.dumps([{"video": name, "conversations": turns} for name in ("a.mp4", "b.mp4")])
    )
    source = ("--data.source.type=r1_omni", f"--data.source.path={tmp_path}/t.json")
    assert main(["--dry-run", *source, "--learner.num_cpus=5000"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"this machine  {this_machine()}" in shown
    assert f"run folder    {tmp_path}/runs/run, no results yet" in shown
    (short,) = [line for line in shown if line.startswith("warning: the plan must")]
    assert "must fit this machine's " in short
    assert "CPUs, got 5000.8 " in short
    assert f"warning: 1 of 2 clips of data.source are missing, the first: {tmp_path}/b.mp4" in shown
    (tmp_path / "a.mp4").unlink()
    for argv in ((*GIVEN, *source), ("--dry-run", *source)):
        assert "data.source must have its media files, got none of 2 clips" in mistake(capsys, *argv)


def test_a_dry_run_finds_what_would_stop_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    take_up(folder, load_config(None, []))
    (folder / "cold_start").mkdir()
    for argv in ((*GIVEN, "--run.seed=1"), ("--dry-run", "--run.seed=1")):
        assert "run.seed: 0 before, 1 now" in mistake(capsys, *argv)
    (tmp_path / "file").write_text("")
    assert "run.root must be writable" in mistake(capsys, "--dry-run", f"--run.root={tmp_path}/file")
    assert "pip install" in mistake(capsys, "--dry-run", "--run.wandb_project=x")


def test_a_reward_that_asks_engines_is_accepted_where_its_sounds_can_be_swapped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def dry_run(without: str, *labels: str) -> list[str]:
        rewards = f"[{{type: builtin, name: modality_gain, options: {{without: {without}}}}}]"
        turns = [[{"value": "<video>\n<audio>"}, {"value": label}] for label in labels]
        lines = [{"video": f"{i}.mp4", "conversations": turn} for i, turn in enumerate(turns)]
        (tmp_path / "t.json").write_text(json.dumps(lines))
        source = ("--data.source.type=r1_omni", f"--data.source.path={tmp_path}/t.json")
        return ["--dry-run", *source, "--reward.rewards", rewards]

    for index in range(2):
        (tmp_path / f"{index}.mp4").write_text("")
    for case in (("audio_muted", "sad"), ("audio_swapped", "sad", "happy")):
        assert main(dry_run(*case)) == 0
        assert "name: modality_gain" in capsys.readouterr().out
    assert "got sad in data.source; take audio_muted" in mistake(capsys, *dry_run("audio_swapped", "sad", "sad"))
    assert "modality_gain.without must be 'audio_muted'" in mistake(capsys, *dry_run("smell", "sad"))


def test_a_dry_run_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", DEMO, "--dry-run"]) == 0
    assert "name: demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ("--rollout.group_size", "1"),
            ("rollout.group_size must be >= 2", "got 1", "GRPO needs a group to centre rewards"),
        ),
        (("--learner.lr", "1e-6"), ("learner.lr must be a known key", "1e-06", "--help")),
        (
            ("--rollout.sampling.top_k=5", "--learner.old_logprobs=rollout"),
            ("rollout.sampling must keep every token", "got top_k=5", "set top_k to 0"),
        ),
        (("--config", "/no/such.yaml"), ("--config must be a readable file", "'/no/such.yaml'")),
        (("--config",), ("--config",)),
        (("--dry-run", "--learner.steps"), ("--learner.steps must be followed by a value",)),
        (("train",), ("an override must look like", "'train'", "--help")),
        (("--dry", "1"), ("an override must look like", "'--dry'")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    said = mistake(capsys, *argv)
    assert [part for part in parts if part not in said] == [], said


def test_a_missing_model_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = mistake(capsys, *GIVEN, "--model.path", "/no/such/model")
    assert "model.path must be a folder, got '/no/such/model'; fetch the checkpoint there first" in said


def test_a_model_folder_without_weights_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2_5OmniForConditionalGeneration"]}))
    said = mistake(capsys, *GIVEN, "--model.path", str(tmp_path))
    assert f"model.path must hold *.safetensors weights, got none in '{tmp_path}'" in said


def test_a_model_of_another_architecture_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    said = mistake(capsys, *GIVEN, "--model.path", str(tmp_path))
    assert "model.path must be one of ['Qwen2_5OmniForConditionalGeneration'" in said
    assert f"got 'LlamaForCausalLM' in '{tmp_path}'" in said
    assert "choose a supported checkpoint" in said


def test_a_missing_corpus_is_named(capsys: pytest.CaptureFixture[str], tiny: str) -> None:
    said = mistake(capsys, *GIVEN, "--model.path", tiny, "--data.source={type: r1_omni, path: /no/such.json}")
    assert "a corpus must be a readable file, got '/no/such.json'" in said


def test_a_run_reads_each_corpus_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: str
) -> None:
    from deploy import wiring
    from deploy.checks import preflight

    turns = [{"value": "<video>"}, {"value": "sad"}]
    (tmp_path / "a.mp4").write_text("")
    (tmp_path / "t.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}]))
    splits = ("source", "cold_start", "validation", "heldout")
    corpora = [f"--data.{split}={{type: r1_omni, path: {tmp_path}/t.json, name: {split}}}" for split in splits]
    stages = ("--sft.steps=1", "--evaluation.policies=[grpo]", "--evaluation.every_checkpoints=1")
    read: list[str] = []
    read_corpus = preflight.read_corpus

    def counted(source: SourceConfig, **options: Any) -> Corpus:
        read.append(str(source.name))
        return read_corpus(source, **options)  # pyright: ignore[reportArgumentType]

    def no_ray() -> None:
        raise ClusterError("no Ray here")

    monkeypatch.setattr(preflight, "read_corpus", counted)
    monkeypatch.setattr(wiring, "start_ray", no_ray)
    assert main(["--model.path", tiny, *corpora, *stages]) == USER_MISTAKE
    shown = capsys.readouterr()
    assert shown.err == "error: no Ray here\n"
    assert sorted(read) == sorted(splits)
    # what was read before the folder was made is what the run is told of
    assert "warning: 1 clips of data.heldout are trained on, too" in shown.out


def test_a_root_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = mistake(capsys, *GIVEN, "--run.root", str(tmp_path / "file"))
    assert f"run.root must be writable, got '{tmp_path}/file'" in said
    assert "choose another folder" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            PublishError("the engine is gone", proof="pause", engine="engine-0", subject="pause"),
            FAILURE,
            "failed: the engine is gone; the same command again resumes\n",
        ),
        (ConfigError("a must be b, got c; d"), USER_MISTAKE, "error: a must be b, got c; d\n"),
        (StopRequestedError("x"), INTERRUPTED, "stopped; the same command again resumes from here\n"),
        (
            KeyboardInterrupt(),
            INTERRUPTED,
            "interrupted; the same command again resumes from the last checkpoint\n",
        ),
        (
            asyncio.CancelledError(),
            INTERRUPTED,
            "interrupted; the same command again resumes from the last checkpoint\n",
        ),
    ],
)
def test_each_end_has_its_line_and_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    async def ends(config: object) -> None:
        raise error

    assert (USER_MISTAKE, FAILURE, INTERRUPTED) == (2, 1, 130)
    assert run_command(GIVEN, program="p", purpose="", run=ends) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/x"), "/disk/x: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "{folder}: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/disk/x"), "/disk/x: Permission denied"),
        (LearnerError("a rank died."), "a rank died"),
    ],
)
def test_what_the_machine_did_is_one_line_that_says_how_to_resume(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception, said: str
) -> None:
    async def ends(config: object) -> None:
        raise error

    said = said.format(folder=tmp_path / "runs" / "run")
    assert run_command(GIVEN, program="p", purpose="", run=ends) == FAILURE
    assert capsys.readouterr().err == f"failed: {said}; the same command again resumes\n"
    assert run_command([*GIVEN, "--run.resume=never"], program="p", purpose="", run=ends) == FAILURE
    assert capsys.readouterr().err == f"failed: {said}; the same command without --run.resume never resumes\n"


def test_a_failure_that_says_how_to_resume_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def ends(config: object) -> None:
        raise LearnerError("a rank died; the same command again resumes")

    assert run_command(GIVEN, program="p", purpose="", run=ends) == FAILURE
    assert capsys.readouterr().err == "failed: a rank died; the same command again resumes\n"


def test_an_error_that_nobody_foresaw_keeps_its_traceback() -> None:
    for error in (ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("odd")):

        async def ends(config: object, error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            run_command(GIVEN, program="p", purpose="", run=ends)


def test_a_run_is_given_the_resolved_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    given: list[OmniConfig] = []

    async def run(config: OmniConfig) -> None:
        given.append(config)

    assert run_command([*GIVEN, "--learner.steps=7"], program="p", purpose="", run=run) == 0
    assert given == [load_config(None, ["--learner.steps=7"])]
    assert capsys.readouterr().err == ""


def test_the_supervised_stage_alone_needs_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert sft_main(GIVEN) == USER_MISTAKE
    said = "error: sft.steps must be >= 1 for this command, got 0; say how many, or give sft.epochs\n"
    assert capsys.readouterr().err == said
    assert sft_main(["--help"]) == 0
    assert "python -m learner.sft" in capsys.readouterr().out


NOTHING = "got no key of model or data"


@pytest.mark.parametrize("command", [main, sft_main])
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), NOTHING),
        (("--run.seed=1",), NOTHING),
        (("--learner.steps", "7", "--run.name=data.x"), NOTHING),
        (("--model.path", "/data/model"), "got no key of data;"),
        (("--data.source.type=synthetic",), "got no key of model;"),
    ],
)
def test_a_run_must_be_given_a_configuration_or_a_model_and_data(
    capsys: pytest.CaptureFixture[str], command: Callable[[Sequence[str]], int], argv: tuple[str, ...], said: str
) -> None:
    assert command(argv) == USER_MISTAKE
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    for part in (said, "--config FILE", "--model.path DIR", "`make demo`", "--help"):
        assert part in shown.err
    (examples,) = re.findall(r"begin with are in ([^,]+),", shown.err)
    assert (Path(examples) / "demo.yaml").is_file()


@pytest.mark.parametrize("program", ["learner.main", "learner.sft", "learner.evaluate", "learner.predict"])
def test_a_command_without_arguments_says_what_to_give_before_anything_heavy_is_imported(program: str) -> None:
    heavy = ("torch", "ray", "vllm", "transformers", "deepspeed", "numpy")
    code = (
        f"import sys; from {program} import main; code = main([]);"
        f"print(code, [m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith("error: ")
    assert "must be given" in done.stderr
    assert "see --help" in done.stderr or "--help lists" in done.stderr
    assert done.stderr.count("\n") == 1
