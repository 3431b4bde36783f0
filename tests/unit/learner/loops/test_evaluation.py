"""Held-out clips asked once each: in order, a few at a time, and what fails counts as wrong."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import DatasetError
from common.evaluation.predictions import Prediction, read_predictions, write_predictions
from common.prompts.lost_clips import MAX_LOSSES, lost_clip
from common.types import Failure, Generation, MediaRef, Prompt, Record
from deploy.commands.evaluate import main
from learner.loops.evaluation import (
    Asking,
    answers_file,
    evaluation_result,
    predict_clips,
    read_result,
    result_metrics,
    validation_metrics,
    write_result,
)
from tests.support.builders import make_completion, make_prediction, make_record
from tests.support.clock import run

BROKEN = Failure(stage="media", reason="undecodable", detail="no such file")
ASKING = Asking(policy_version=7, taxonomy="dfew")
LATE = Failure(stage="rollout", reason="deadline", detail="60 s passed")


class Policy:
    """Answers by clip; the later a clip stands, the sooner it is done."""

    def __init__(self, answers: dict[str, str | Failure]) -> None:
        self.answers = answers
        self.records = [make_record(name, label="sad") for name in answers]
        self.in_flight = self.max_in_flight = 0
        self.prompts: list[Prompt] = []
        self.told: list[tuple[int, int]] = []
        self.num_losses: dict[str, int] = {}
        """By clip: how often an engine finds it lost."""

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        """A handle, or what is wrong with the clip's media."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        answer = self.answers[record.prompt_id]
        await asyncio.sleep(0)
        if isinstance(answer, Failure) and answer.stage == "media":
            self.in_flight -= 1
            return answer
        return MediaRef(record.prompt_id if lost is None else f"{lost}+"), 5

    async def generate(self, prompt: Prompt) -> Generation | Failure:
        """The answer."""
        self.prompts.append(prompt)
        for _ in range(2 * (len(self.records) - prompt.draw.position)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        if str(prompt.media).count("+") < self.num_losses.get(prompt.draw.record.prompt_id, 0):
            return lost_clip("its node died")
        answer = self.answers[prompt.draw.record.prompt_id]
        if isinstance(answer, Failure):
            return answer
        return Generation(completions=(make_completion([1], text=answer),), submission_version=0, engine="engine-0")

    def predict(self, *, max_in_flight: int = 4) -> list[Prediction]:
        """All clips."""
        return run(
            predict_clips(
                self.records,
                ASKING,
                prepare=self.prepare,
                generate=self.generate,
                max_in_flight=max_in_flight,
                on_clip=lambda done, total: self.told.append((done, total)),
            )
        )


def test_clips_come_back_in_their_order_whichever_is_done_first() -> None:
    policy = Policy({f"clip-{i}": f"answer {i}" for i in range(9)})
    clips = policy.predict(max_in_flight=9)
    assert [c.id for c in clips] == [f"clip-{i}" for i in range(9)]
    assert [c.text for c in clips] == [f"answer {i}" for i in range(9)]
    assert policy.told == [(i, 9) for i in range(1, 10)]
    assert sorted(p.draw.position for p in policy.prompts) == list(range(9))
    assert {(p.media, p.num_prompt_tokens) for p in policy.prompts} == {(f"clip-{i}", 5) for i in range(9)}


def test_a_lost_clip_is_prepared_and_asked_again() -> None:
    policy = Policy({"clip-0": "x", "clip-1": "y"})
    policy.num_losses = {"clip-0": MAX_LOSSES, "clip-1": MAX_LOSSES + 1}
    clips = policy.predict()
    assert [c.text for c in clips] == ["x", ""]
    assert clips[0].failure is None
    assert clips[1].failure == "media/lost: its node died"
    asked = [p.media for p in policy.prompts if p.draw.record.prompt_id == "clip-0"]
    assert asked == ["clip-0", "clip-0+", "clip-0++", "clip-0+++"]
    assert {p.seed for p in policy.prompts} == {0}


@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_no_more_clips_are_asked_at_once_than_allowed(max_in_flight: int) -> None:
    policy = Policy({f"clip-{i}": BROKEN if i % 4 == 1 else "x" for i in range(12)})
    assert len(policy.predict(max_in_flight=max_in_flight)) == 12
    assert policy.max_in_flight == max_in_flight


def test_what_a_clip_is_evaluated_by() -> None:
    answers: dict[str, str | Failure] = {
        "form": "<think>x</think>\n<answer> Sad </answer>",
        "tail": "<think>x</think><answer>sad</answer>.",
        "bare": "sad",
        "none": "",
        "broken": BROKEN,
        "late": LATE,
    }
    clips = {c.id: c for c in Policy(answers).predict()}
    assert {name: c.text for name, c in clips.items()} == {
        name: said if isinstance(said, str) else "" for name, said in answers.items()
    }
    result = evaluation_result(list(clips.values()), policy="grpo", policy_version=7)
    assert result.recognition.war.value == 3 / 6
    assert result.war_exact == 2 / 6, "a tag within a longer text is read by line, and what is bare as it is"
    assert result.format_rate == 1 / 6
    assert {name: c.failure for name, c in clips.items() if c.failure} == {
        "broken": "media/undecodable: no such file",
        "late": "rollout/deadline: 60 s passed",
    }


def test_a_clip_that_could_not_be_asked_is_wrong_and_reported() -> None:
    clips = Policy({"a": "sad", "b": BROKEN, "c": "<think>t</think><answer>sad</answer>", "d": LATE}).predict()
    result = evaluation_result(clips, policy="grpo", policy_version=7)
    assert (result.policy, result.policy_version, result.num_failed) == ("grpo", 7, 2)
    assert result.recognition.war.value == 0.5
    assert result.recognition.num_clips == 4
    assert result.format_rate == 0.25


def test_an_evaluation_of_which_nothing_could_be_asked_is_a_mistake_with_its_reasons() -> None:
    missing = Failure(stage="media", reason="missing", detail="/data/a: no such file")
    clips = Policy({f"clip-{i}": missing for i in range(6)}).predict()
    with pytest.raises(DatasetError) as caught:
        evaluation_result(clips, policy="grpo", policy_version=7)
    assert str(caught.value) == (
        "some held-out clip must be usable, got only failures: media/missing x6; "
        "check data.heldout.media_root and the files"
    )
    # reasons are told apart, and the commonest has its remedy
    clips = Policy({"a": missing, "b": LATE, "c": LATE}).predict()
    with pytest.raises(DatasetError, match=r"media/missing x1, rollout/deadline x2; raise rollout\.deadline_s"):
        evaluation_result(clips, policy="grpo", policy_version=7)


def test_a_policy_that_answers_nothing_right_is_no_mistake() -> None:
    clips = Policy({"a": "happy", "b": "", "c": BROKEN}).predict()
    result = evaluation_result(clips, policy="grpo", policy_version=7)
    assert (result.recognition.war.value, result.num_failed) == (0.0, 1)


def test_a_evaluation_as_points_of_its_policy() -> None:
    clips = Policy({"a": "sad", "b": BROKEN, "c": "<think>t</think><answer>sad</answer>", "d": LATE}).predict()
    assert result_metrics(evaluation_result(clips, policy="cold_start", policy_version=0)) == {
        "eval/cold_start/war": 0.5,
        "eval/cold_start/uar": 0.5,
        "eval/cold_start/war_exact": 0.5,
        "eval/cold_start/format_rate": 0.25,
    }


def test_a_evaluation_comes_back_as_it_was_written(tmp_path: Path) -> None:
    clips = [
        make_prediction("ü.mp4", label="sad", answer="sad", text="<think>\u2028x\n</think>"),
        make_prediction("b", label="happy", answer=None),
    ]
    result = evaluation_result(clips, policy="cold_start", policy_version=0)
    folder = tmp_path / "eval"
    assert read_result(folder, "cold_start") is None
    write_result(folder, result)
    assert read_result(folder, "cold_start") == result
    assert sorted(p.name for p in folder.iterdir()) == ["cold_start.json"]
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert read_result(folder, "grpo") is None


def test_what_was_said_comes_back_as_it_was_written(tmp_path: Path) -> None:
    # U+2028 breaks lines for some readers
    clips = Policy({"ü": '<answer>sad\u2028</answer>\n"', "b": BROKEN}).predict()
    path = answers_file(tmp_path / "eval", "grpo")
    write_predictions(path, clips)
    assert read_predictions(path) == clips
    assert oct(path.parent.stat().st_mode & 0o777) == "0o700"


def test_a_evaluation_is_what_its_own_answers_are_scored_as(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answers: dict[str, str | Failure] = {
        "a": "<think>x</think><answer>Sadness.</answer>",
        "b": "<answer>sad</answer>",
        "c": "<answer>happy and sad</answer>",
        "d": "<answer>Joyful</answer>",
        "e": LATE,
        "f": "<answer>happy</answer>",
    }
    policy = Policy(answers)
    labels = {"d": "happy", "e": "happy", "f": "happy"}
    policy.records = [
        replace(r, label=labels.get(r.prompt_id, "sad"), fold=2, dataset="dfew") for r in policy.records
    ]
    said = policy.predict()
    result = evaluation_result(said, policy="grpo", policy_version=7)
    write_predictions(answers_file(tmp_path / "eval", "grpo"), said)
    assert main(["--predictions", "eval/grpo.jsonl", "--out", "scored"]) == 0
    (found,) = json.loads(Path("scored/grpo/report.json").read_text())["assessments"]
    ours = result.recognition
    assert (ours.war.value, ours.uar.value) == (4 / 6, 2 / 3)
    for name, value in (("war", ours.war.value), ("uar", ours.uar.value)):
        assert found["normalised"][name]["value"] == pytest.approx(value, abs=1e-12)
    assert found["exact"]["war"]["value"] == pytest.approx(result.war_exact, abs=1e-12)
    assert result.war_exact == 2 / 6
    assert (found["recall"], found["support"]) == (dict(ours.recall), dict(ours.support))
    assert (found["form_rate"], found["num_failed"]) == (result.format_rate, result.num_failed)
    assert found["policy_versions"] == [7]
    assert [(f["fold"], f["num_clips"]) for f in found["folds"]] == [(2, 6)]


def test_a_taxonomy_of_the_run_goes_before_the_records_own() -> None:
    calm = replace(make_record("a", label="calm"), taxonomy="ravdess")
    assert Asking(policy_version=1, taxonomy="r1_omni").prediction(calm).taxonomy == "r1_omni"
    assert Asking(policy_version=1, taxonomy="open").prediction(calm).taxonomy == "ravdess"


def test_a_evaluation_of_several_datasets_tells_them_apart(tmp_path: Path) -> None:
    clips = [make_prediction("a", label="sad", answer="sad"), make_prediction("b", label="happy", answer="fear")]
    assert evaluation_result(clips, policy="grpo", policy_version=1).datasets == {}
    clips += [replace(make_prediction("c", label="sad", answer="sad"), dataset="mafw")]
    result = evaluation_result(clips, policy="grpo", policy_version=1)
    assert validation_metrics(result) == {
        "eval/validation/war": 2 / 3,
        "eval/validation/uar": 0.5,
        "eval/validation/d/war": 0.5,
        "eval/validation/d/uar": 0.5,
        "eval/validation/mafw/war": 1.0,
        "eval/validation/mafw/uar": 1.0,
    }
    write_result(tmp_path / "eval", result)
    assert read_result(tmp_path / "eval", "grpo") == result
