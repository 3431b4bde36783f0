"""The command that tries rewards out on recorded samples."""

import gzip
import json
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config.reward import RewardConfig
from learner.records.record import write_samples
from reward.check import main
from tests.support.builders import make_draw, make_group

REWARDS = (
    "[{type: builtin, name: accuracy_r1omni, weight: 2.0}, "
    "{type: python, name: failing, entrypoint: 'tests.support.reward.user:failing', max_retries: 0}]"
)
PAPER = "[{type: builtin, name: accuracy_r1omni}, {type: builtin, name: format_r1omni}]"


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Two prompts; a reward fails on the second."""
    samples = [
        {"prompt_id": "a", "completion": "happy", "label": "happy"},
        {"prompt_id": "b", "completion": "[red]fear[/red]\n" + "x" * 100, "label": "fear"},
        {"prompt_id": "a", "completion": "sad", "label": "happy"},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(map(json.dumps, samples)) + "\n\n")
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON."""
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_sample_is_told_with_its_breakdown_and_its_errors(
    lines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = told(capsys, "--samples", str(lines), f"--reward.rewards={REWARDS}")
    assert code == 1
    assert (found["num_groups"], found["num_failed"]) == (2, 1)
    assert [(s["line"], s["prompt_id"], s["total"]) for s in found["samples"]] == [
        (1, "a", 3.0),
        (3, "a", 1.0),
        (2, "b", None),
    ]
    assert found["samples"][0]["values"] == {"accuracy_r1omni": 1.0, "failing": 1.0}
    bad = found["samples"][2]
    # what the others gave is told all the same
    assert bad["values"] == {"accuracy_r1omni": 0.0}
    assert bad["error"] == "failing-error"
    assert 'user.py", line' in bad["faults"]["failing"]["detail"]


def test_people_get_a_table_and_tracebacks(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--samples", str(lines), f"--reward.rewards={REWARDS}"]) == 1
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["line", "prompt", "label", "completion", "accuracy_r1omni", "failing", "total"] in rows
    assert ["1", "a", "happy", "happy", "1", "1", "3"] in rows
    # a completion is no markup
    assert "[red]fear[/red] xxx" in out
    assert "line 2: failing failed (error): Traceback" in out
    assert "ValueError: no fear" in out
    assert "is called in omni style" in out


def test_where_nothing_fails_the_code_is_0(lines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, "--samples", str(lines), f"--reward.rewards={PAPER}")
    assert code == 0
    assert [s["total"] for s in found["samples"]] == [1.0, 0.0, 0.0]


def test_samples_that_a_run_has_recorded_are_scored_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "step_000001.jsonl.gz"
    write_samples(path, [make_group([0.0, 0.0])])
    code, found = told(capsys, "--samples", str(path), f"--reward.rewards={PAPER}")
    assert code == 0
    assert [(s["group"], s["values"]["accuracy_r1omni"]) for s in found["samples"]] == [("0/clip-0/0", 0.0)] * 2


def test_rewards_see_of_recorded_samples_what_they_saw_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = make_draw()
    record = replace(
        draw.record,
        clip=replace(draw.record.clip, audio_path="/data/clip-0.wav"),
        labels=("happy", "sad"),
        label_distribution={"happy": 0.5, "sad": 0.5},
        taxonomy="dfew",
        transcript="so it is",
    )
    path = tmp_path / "step_000001.jsonl.gz"
    write_samples(path, [make_group([0.0], draw=replace(draw, record=record))])
    entry = "{type: python, name: whole, entrypoint: 'tests.support.reward.user:whole_record'}"
    code, found = told(capsys, "--samples", str(path), f"--reward.rewards=[{entry}]")
    assert code == 0
    assert found["samples"][0]["details"] == {"whole": repr(record)}


def test_lists_of_a_line_are_read_as_a_request_to_the_service_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "samples.jsonl"
    sample = {"completion": "happy", "labels": ["happy", "sad"], "token_ids": [1, 2], "duration_s": 2}
    path.write_text(json.dumps(sample | {"label_distribution": {"happy": 0.5, "sad": 0.5}}))
    code, found = told(capsys, "--samples", str(path), "--reward.rewards=[{type: builtin, name: soft_label}]")
    assert code == 0
    assert found["samples"][0]["total"] is not None


def test_what_is_no_unicode_is_told_by_its_escape(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(
        '{"completion": "a", "label": "fear", "draw": "\\udc80"}\n{"completion": "a", "label": "happy"}\n'
    )
    entry = "{type: python, name: odd, entrypoint: 'tests.support.reward.user:surrogate', max_retries: 0}"
    rewards = f"--reward.rewards=[{entry}]"
    code, found = told(capfd, "--samples", str(path), rewards)
    assert code == 1
    assert found["samples"][0]["group"] == "\\udc80"
    assert found["samples"][0]["faults"]["odd"]["detail"].endswith("ValueError: a \\udc80 half")
    assert main(["--samples", str(path), rewards]) == 1
    assert "a \\udc80 half" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "samples.jsonl:2 must be JSON"),
        ("[1]", "samples.jsonl:2 must be a mapping, got list"),
        ('{"label": "a"}', "samples.jsonl:2: completion must be valid"),
        ('{"completion": "a", "lable": "a"}', "samples.jsonl:2: lable must be valid"),
        ('{"completion": 3}', "samples.jsonl:2: completion must be valid, got '3'"),
        ('{"completion": "a", "token_ids": ["1"]}', "samples.jsonl:2: token_ids.0 must be valid, got '1'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, part: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"completion": "a"}}\n{text}\n')
    assert main(["--samples", str(path), f"--reward.rewards={PAPER}"]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1


def test_a_wrong_command_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, torn = tmp_path / "empty.jsonl", tmp_path / "torn.jsonl.gz"
    empty.write_text("\n")
    torn.write_bytes(gzip.compress(b'{"completion": "a"}\n' * 100)[:-20])
    for arguments, part in (
        ([], "--samples must be set"),
        (["--samples", "/no/such"], "must be a readable file"),
        (["--samples", str(empty)], "must hold at least one line"),
        (["--samples", str(torn)], "must be a readable file"),
        (["--samples", str(empty), "--config", "/no/such"], "--config must be a readable file"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert part in said
        assert said.count("\n") == 1


def test_the_built_in_rewards_are_listed_with_their_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "accuracy_r1omni()" in out
    assert "    1.0 if the answer equals the label to the letter" in out


def test_the_documentation_can_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "custom-rewards.md").read_text()
    module = page[page.index("    # my_rewards.py") : page.index("## 2.")]
    config = page[page.index("# my.yaml") : page.index("```\n\n`python -m reward.check --list`")]
    lines = [line.strip() for line in page.splitlines() if line.startswith('    {"prompt_id"')]
    (tmp_path / "my_rewards.py").write_text(textwrap.dedent(module))
    (tmp_path / "my.yaml").write_text(config)
    (tmp_path / "samples.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    code, found = told(capsys, "--config", "my.yaml", "--samples", "samples.jsonl")
    assert code == 0
    assert [s["total"] for s in found["samples"]] == [2.2, 0.2]


def test_every_configuration_of_the_documentation_is_valid() -> None:
    page = (Path(__file__).parents[3] / "docs" / "custom-rewards.md").read_text()
    entries = [yaml.safe_load(line)[0] for line in page.splitlines() if line.strip().startswith("- {")]
    assert {entry["type"] for entry in entries} == {"builtin", "python", "actor", "named_actor", "http"}
    RewardConfig.model_validate({"rewards": entries})
