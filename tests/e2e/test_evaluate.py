"""`python -m learner.evaluate` over a run's checkpoint, on real engines, in every condition."""

import json
from pathlib import Path

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from common.evaluation.controls import CONDITIONS
from tests.e2e.support import lines_of, start, write_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose run has taken two steps; one of its held-out clips is broken."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = folder / "corpus"
    corpus.mkdir()
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=8, num_validation=0, num_heldout=14)
    write_synthetic_corpus(corpus, sizes)
    first = json.loads((corpus / "heldout.json").read_text())[0]["video"]
    (corpus / first).write_text("this is not a video")
    config = write_recipe(folder / "run.yaml", root=folder, corpus=corpus)
    done = start("--config", str(config))
    assert done.returncode == 0, done.stderr[-2000:]
    return config


@pytest.mark.long
def test_a_checkpoint_is_asked_in_every_condition_and_reported(trained: Path) -> None:
    run = trained.parent / "test"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.suffix in {".json", ".jsonl", ".yaml"}}
    done = start(
        *("--config", str(trained), "--run", "test", "--checkpoint", "last", "--controls", "--name", "all"),
        program="learner.evaluate",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = run / "eval" / "all"
    assert f"report  {folder / 'report.html'}" in done.stdout
    predictions = lines_of(folder / "predictions.jsonl")
    assert len(predictions) == 14 * len(CONDITIONS)
    assert {p["policy_version"] for p in predictions} == {2}
    by_condition = {c: [p for p in predictions if p["condition"] == c] for c in CONDITIONS}
    assert {p.get("audio") for p in by_condition["video_only"]} == {None}
    assert {p.get("video") for p in by_condition["audio_only"]} == {None}
    assert all(p["audio"] != p["video"] for p in by_condition["swapped_audio"])
    assert sum("failure" in p for p in by_condition["av"]) == 1
    facts = json.loads((folder / "report.json").read_text())
    assert [a["condition"] for a in facts["assessments"]] == list(CONDITIONS)
    assert all(a["num_clips"] == 14 for a in facts["assessments"])
    assert len(facts["contributions"]) == len(CONDITIONS) - 1
    # the same clip without its sound is another prompt: some answers differ
    said = {c: [p["text"] for p in by_condition[c]] for c in CONDITIONS}
    assert len({tuple(texts) for texts in said.values()}) > 1
    assert {p: p.read_bytes() for p in before} == before, "the run is as it was"
    # what was written is scored alike without any model
    again = start(
        "--predictions",
        str(folder / "predictions.jsonl"),
        "--json",
        "--out",
        str(run / "again"),
        program="learner.evaluate",
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert json.loads(again.stdout)["assessments"] == facts["assessments"]


@pytest.mark.long
def test_greedy_answers_are_the_same_when_asked_again(trained: Path) -> None:
    texts: list[list[str]] = []
    for name in ("one", "two"):
        done = start("--config", str(trained), "--run", "test", "--name", name, program="learner.evaluate")
        assert done.returncode == 0, done.stderr[-2000:]
        lines = lines_of(trained.parent / "test" / "eval" / name / "predictions.jsonl")
        texts.append([line["text"] for line in lines])
    assert texts[0] == texts[1]


@pytest.mark.long
def test_a_checkpoint_that_is_not_there_is_one_line(trained: Path) -> None:
    done = start("--config", str(trained), "--run", "test", "--checkpoint", "77", program="learner.evaluate")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --checkpoint must be best, last or a step of")
