"""Held-out clips asked once each: in order, a few at a time, and what fails counts as wrong."""

import asyncio
from pathlib import Path

import pytest

from common.errors import DatasetError
from common.types import Failure, Generation, MediaRef, Prompt, Record
from learner.evaluation import (
    JudgedClip,
    judge,
    judgement_metrics,
    judgement_of,
    read_judged_clips,
    read_judgement,
    write_judgement,
)
from tests.support.builders import make_completion, make_judged, make_record
from tests.support.clock import run

BROKEN = Failure(stage="media", reason="undecodable", detail="no such file")
LATE = Failure(stage="rollout", reason="deadline", detail="60 s passed")


class Policy:
    """Answers by clip; the later a clip stands, the sooner it is done."""

    def __init__(self, answers: dict[str, str | Failure]) -> None:
        self.answers = answers
        self.records = [make_record(name, label="sad") for name in answers]
        self.in_flight = self.max_in_flight = 0
        self.prompts: list[Prompt] = []
        self.told: list[tuple[int, int]] = []

    async def prepare(self, record: Record) -> tuple[MediaRef, int] | Failure:
        """A handle, or what is wrong with the clip's media."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        answer = self.answers[record.prompt_id]
        await asyncio.sleep(0)
        if isinstance(answer, Failure) and answer.stage == "media":
            self.in_flight -= 1
            return answer
        return MediaRef(record.prompt_id), 5

    async def generate(self, prompt: Prompt) -> Generation | Failure:
        """The answer."""
        self.prompts.append(prompt)
        for _ in range(2 * (len(self.records) - prompt.draw.position)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        answer = self.answers[prompt.draw.record.prompt_id]
        if isinstance(answer, Failure):
            return answer
        return Generation(completions=(make_completion([1], text=answer),), submission_version=0, engine="engine-0")

    def judge(self, *, max_in_flight: int = 4) -> list[JudgedClip]:
        """All clips."""
        return run(
            judge(
                self.records,
                prepare=self.prepare,
                generate=self.generate,
                max_in_flight=max_in_flight,
                on_clip=lambda done, total: self.told.append((done, total)),
            )
        )


def test_clips_come_back_in_their_order_whichever_is_done_first() -> None:
    policy = Policy({f"clip-{i}": f"answer {i}" for i in range(9)})
    clips = policy.judge(max_in_flight=9)
    assert [c.prompt_id for c in clips] == [f"clip-{i}" for i in range(9)]
    assert [c.answer for c in clips] == [f"answer {i}" for i in range(9)]
    assert policy.told == [(i, 9) for i in range(1, 10)]
    assert sorted(p.draw.position for p in policy.prompts) == list(range(9))
    assert {(p.media, p.num_prompt_tokens) for p in policy.prompts} == {(f"clip-{i}", 5) for i in range(9)}


@pytest.mark.parametrize("max_in_flight", [1, 3])
def test_no_more_clips_are_asked_at_once_than_allowed(max_in_flight: int) -> None:
    policy = Policy({f"clip-{i}": BROKEN if i % 4 == 1 else "x" for i in range(12)})
    assert len(policy.judge(max_in_flight=max_in_flight)) == 12
    assert policy.max_in_flight == max_in_flight


def test_what_a_clip_is_judged_by() -> None:
    answers: dict[str, str | Failure] = {
        "form": "<think>x</think>\n<answer> Sad </answer>",
        "tail": "<think>x</think><answer>sad</answer>.",
        "bare": "sad",
        "none": "",
        "broken": BROKEN,
        "late": LATE,
    }
    clips = {c.prompt_id: c for c in Policy(answers).judge()}
    assert {name: c.answer for name, c in clips.items()} == {
        "form": "sad",
        "tail": "sad",
        "bare": "sad",
        "none": "",
        "broken": None,
        "late": None,
    }
    assert [name for name, c in clips.items() if c.has_form] == ["form"]
    assert {name: c.failure for name, c in clips.items() if c.failure} == {
        "broken": "media/undecodable: no such file",
        "late": "rollout/deadline: 60 s passed",
    }


def test_a_clip_that_could_not_be_asked_is_wrong_and_reported() -> None:
    clips = Policy({"a": "sad", "b": BROKEN, "c": "<think>t</think><answer>sad</answer>", "d": LATE}).judge()
    judgement = judgement_of(clips, policy="grpo", policy_version=7)
    assert (judgement.policy, judgement.policy_version, judgement.num_failed) == ("grpo", 7, 2)
    assert judgement.recognition.war.value == 0.5
    assert judgement.recognition.num_clips == 4
    assert judgement.format_rate == 0.25


def test_an_evaluation_of_which_nothing_could_be_asked_is_a_mistake_with_its_reasons() -> None:
    missing = Failure(stage="media", reason="missing", detail="/data/a: no such file")
    clips = Policy({f"clip-{i}": missing for i in range(6)}).judge()
    with pytest.raises(DatasetError) as caught:
        judgement_of(clips, policy="grpo", policy_version=7)
    assert str(caught.value) == (
        "some held-out clip must be usable, got only failures: media/missing x6; "
        "check data.heldout.media_root and the files"
    )
    # reasons are told apart, and the commonest has its remedy
    clips = Policy({"a": missing, "b": LATE, "c": LATE}).judge()
    with pytest.raises(DatasetError, match=r"media/missing x1, rollout/deadline x2; raise rollout\.deadline_s"):
        judgement_of(clips, policy="grpo", policy_version=7)


def test_a_policy_that_answers_nothing_right_is_no_mistake() -> None:
    clips = Policy({"a": "happy", "b": "", "c": BROKEN}).judge()
    judgement = judgement_of(clips, policy="grpo", policy_version=7)
    assert (judgement.recognition.war.value, judgement.num_failed) == (0.0, 1)


def test_a_judgement_as_points_of_its_policy() -> None:
    clips = Policy({"a": "sad", "b": BROKEN, "c": "<think>t</think><answer>sad</answer>", "d": LATE}).judge()
    assert judgement_metrics(judgement_of(clips, policy="cold_start", policy_version=0)) == {
        "eval/cold_start/war": 0.5,
        "eval/cold_start/uar": 0.5,
        "eval/cold_start/format_rate": 0.25,
    }


def test_a_judgement_comes_back_as_it_was_written(tmp_path: Path) -> None:
    clips = [
        make_judged("ü.mp4", label="sad", answer="sad", text="<think>\u2028x\n</think>"),
        make_judged("b", label="happy", answer=None),
    ]
    judgement = judgement_of(clips, policy="cold_start", policy_version=0)
    folder = tmp_path / "eval"
    assert read_judgement(folder, "cold_start") is None
    write_judgement(folder, judgement, clips)
    assert read_judgement(folder, "cold_start") == judgement
    assert sorted(p.name for p in folder.iterdir()) == ["cold_start.json", "cold_start.jsonl"]
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert read_judgement(folder, "grpo") is None


def test_judged_clips_come_back_as_they_were_written(tmp_path: Path) -> None:
    # U+2028 breaks lines for some readers
    clips = Policy({"ü": '<answer>sad\u2028</answer>\n"', "b": BROKEN}).judge()
    write_judgement(tmp_path, judgement_of(clips, policy="grpo", policy_version=1), clips)
    assert read_judged_clips(tmp_path, "grpo") == clips


def test_a_judgement_without_its_last_file_does_not_count(tmp_path: Path) -> None:
    clips = [make_judged("a", label="sad", answer="sad")]
    write_judgement(tmp_path, judgement_of(clips, policy="grpo", policy_version=1), clips)
    (tmp_path / "grpo.json").rename(tmp_path / "grpo.partial")
    assert read_judgement(tmp_path, "grpo") is None
