"""`python -m learner.evaluate --predictions` as a user starts it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from common.labels import DFEW
from deploy.commands.evaluate import main
from tests.support.predictions import line, some_lines, without, write_lines

ANSWERS = [("sad", "sad"), ("sad", "Sadness"), ("sad", "happy"), ("happy", "happy"), ("fear", "dunno")]


@pytest.fixture
def predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five answers; the current folder is the test's."""
    monkeypatch.chdir(tmp_path)
    return write_lines(tmp_path / "mine.jsonl", some_lines(ANSWERS, video="/data/clip.mp4"))


def test_predictions_become_a_report(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--predictions", str(predictions)]) == 0
    folder = Path("eval/mine")
    assert sorted(p.name for p in folder.iterdir()) == [
        "confusion.png",
        "predictions.jsonl",
        "report.html",
        "report.json",
    ]
    shown = capsys.readouterr().out
    assert shown.splitlines()[-3:] == [
        "report  eval/mine/report.html",
        "folder  eval/mine",
        "next    python -m webbrowser eval/mine/report.html",
    ]
    assert "│ dfew av │ 5     │ 60.0 [20.0-100.0] │" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    facts = json.loads((folder / "report.json").read_text())
    (found,) = facts["assessments"]
    assert found["normalised"]["war"]["value"] == pytest.approx(3 / 5)
    assert found["exact"]["war"]["value"] == pytest.approx(2 / 5)
    assert found["recall"] == {"happy": 1.0, "sad": pytest.approx(2 / 3), "fear": 0.0}
    assert found["out_of_vocabulary_rate"] == pytest.approx(1 / 5)
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(x) for x in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [(x["video"], x["normalised_label"], x["normalised"], x["is_right"]) for x in lines][1:3] == [
        ("/data/clip.mp4", "sad", "sad", True),
        ("/data/clip.mp4", "sad", "happy", False),
    ]
    assert main(["--predictions", str(folder / "predictions.jsonl"), "--name", "again"]) == 0
    again = json.loads(Path("eval/again/report.json").read_text())
    assert again["assessments"] == facts["assessments"]


def test_json_alone_is_printed_and_is_the_report(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--predictions", str(predictions), "--out", "there", "--name", "x", "--json", "--seed", "5"]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    printed = json.loads(shown.out)
    assert shown.err.splitlines()[0] == "folder  there/x"
    assert printed == json.loads(Path("there/x/report.json").read_text())
    assert (printed["name"], printed["seed"], printed["num_resamples"]) == ("x", 5, 10_000)


def test_another_run_is_compared(predictions: Path) -> None:
    others = some_lines([(label, "fear") for label, _ in ANSWERS])
    other = write_lines(Path("theirs.jsonl"), others)
    assert main(["--predictions", str(predictions), "--compare", str(other)]) == 0
    (found,) = json.loads(Path("eval/mine/report.json").read_text())["comparisons"]
    assert (
        found["against"],
        found["difference"]["only_first_right"],
        found["difference"]["only_second_right"],
    ) == (
        "theirs",
        3,
        1,
    )
    assert found["difference"]["war"]["value"] == pytest.approx(2 / 5)


def bad(predictions: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake is said in."""
    assert main(["--predictions", str(predictions), *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.count("\n") == 1
    assert not Path("eval").exists()
    return found.err


def test_mistakes_are_one_line_and_leave_nothing(predictions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = write_lines(Path("broken.jsonl"), [line("a"), without(line("b"), "text")])
    assert "broken.jsonl:2: a prediction must have text" in bad(broken, capsys)
    assert "one of dfew" in bad(predictions, capsys, "--taxonomy", "dwef")
    clips = write_lines(Path("clips.jsonl"), [{"id": f"{i:05d}"} for i in range(6)])
    assert "clips.jsonl:6: every clip must have a prediction" in bad(predictions, capsys, "--clips", str(clips))
    assert "without --run grpo" not in bad(predictions, capsys, "--seed", "x")
    assert "must come without --run" in bad(predictions, capsys, "--run", "demo")
    assert "must come without --every-fold --learner.steps" in bad(
        predictions, capsys, "--every-fold", "--learner.steps", "3"
    )
    assert "--name must be letters" in bad(predictions, capsys, "--name", "../up")


def test_options_of_the_other_way_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", "x.jsonl"]) == 2
    assert "--compare must come with --predictions" in capsys.readouterr().err
    assert main(["--controls"]) == main([]) == 2
    assert (
        capsys.readouterr().err.count(
            "predictions or a checkpoint must be given, got nothing; use --predictions FILE"
        )
        == 2
    )
    assert main(["--run.seed=1"]) == 2
    assert "a run must be given by --config FILE" in capsys.readouterr().err
    assert main(["--checkpoint", "best"]) == 2
    assert "--checkpoint must come with --run" in capsys.readouterr().err
    assert main(["--controls", "video_only,louder"]) == 2
    assert "--controls must be of video_only, audio_only" in capsys.readouterr().err
    assert main(["--model", "a", "--run", "b"]) == 2
    assert "must not both be given" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_failure_in_one_line(
    predictions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("blocker").write_text("")
    assert main(["--predictions", str(predictions), "--out", "blocker/eval"]) == 1
    assert capsys.readouterr().err.startswith("failed: blocker")


def test_neither_torch_nor_ray_is_imported_for_predictions(predictions: Path) -> None:
    program = (
        "import sys; from deploy.commands.evaluate import main; code = main(['--predictions', sys.argv[1]]);"
        "sys.exit(code or 10 * bool({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run(
        [sys.executable, "-c", program, str(predictions)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin", "HOME": str(predictions.parent)},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_a_hundred_thousand_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 7, (100_000, 2))
    lines = (line(str(i), DFEW[a], DFEW[b], fold=i % 5 + 1) for i, (a, b) in enumerate(drawn))
    path = write_lines(tmp_path / "many.jsonl", lines)
    started = time.process_time()
    assert main(["--predictions", str(path)]) == 0
    print(f"100,000 predictions: {time.process_time() - started:.1f} s")
    (found,) = json.loads(Path("eval/many/report.json").read_text())["assessments"]
    assert len(found["folds"]) == 5
    assert found["normalised"]["war"]["value"] == pytest.approx(
        float((drawn[:, 0] == drawn[:, 1]).mean()), abs=1e-9
    )


@pytest.mark.parametrize("program", ["learner.evaluate", "learner.predict"])
def test_help_loads_nothing_heavy(program: str) -> None:
    code = (
        f"import sys; from {program} import main; main(['--help']);"
        "print([m for m in ('torch', 'ray', 'vllm', 'transformers', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run.root", str(tmp_path), "--run", "nobody", "--controls", "no_think"]) == 2
    said = capsys.readouterr().err
    assert said == (f"error: --run must be a run in {tmp_path}, got 'nobody'; give its name or run.root\n")
