"""Scoring beside the engines: what is asked once, what is remembered, and what failed."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from common.errors import EngineError, MediaError, RequestRefusedError
from common.prompts.lost_clips import MAX_LOSSES, lost_clip
from common.types import Condition, Failure, MediaRef, Record, SamplingSpec
from rollout.pool import RolloutPool
from rollout.scoring import LogprobScorer
from tests.support.builders import make_record
from tests.support.clock import run
from tests.support.fleet import dispatcher_of

LATE = Failure(stage="rollout", reason="deadline", detail="engine a: 7 s passed")


class ScoringEngine:
    """Answers with a number that tells the questions apart, after a second."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.asked: list[dict[str, Any]] = []
        self.answers: list[Failure | Exception] = []
        """What it answers first."""

    async def score(self, media: Any, **request: Any) -> float | Failure:
        """Sum of all that it was asked."""
        self.asked.append({"media": media, **request})
        await asyncio.sleep(1)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return -float(sum(request["prefix_ids"]) + 100 * sum(request["text_ids"]))


class Clips:
    """A `PrepareInConditionFn` whose media tell what was asked."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self.asked: list[tuple[str, Condition, str | None]] = []

    async def __call__(
        self,
        record: Record,
        *,
        condition: Condition = "av",
        sound: Record | None = None,
        lost: MediaRef | None = None,
    ) -> tuple[MediaRef, int] | Failure:
        """A name."""
        self.asked.append((record.prompt_id, condition, sound and sound.prompt_id))
        again = "" if lost is None else f"{lost}+"
        return self.failure or (MediaRef(f"{again}{record.prompt_id}/{condition}"), 3)


class Scene:
    """A scorer over these."""

    def __init__(self, *, failure: Failure | None = None, num_engines: int = 1, is_alone: bool = False) -> None:
        self.engines = [ScoringEngine(str(i)) for i in range(num_engines)]
        self.clips, self.version = Clips(failure), 0
        self.scorer = LogprobScorer(
            RolloutPool(
                dispatcher_of(self.engines),
                slots=[engine.name for engine in self.engines],
                sampling=SamplingSpec(),
                group_size=2,
                deadline_s=7.0,
            ),
            prepare=self.clips,
            encode=lambda text: [len(text)],
            version=lambda: self.version,
            donors=[make_record("calm", label="sad"), heard("cheer", "happy"), heard("gloom", "sad")],
            is_alone=is_alone,
        )

    async def ask(self, name: str = "clip", *, prefix: str = "<answer>", **changed: Any) -> float:
        """One question."""
        how: dict[str, Any] = {"condition": "av", "text": "happy", **changed}
        return await self.scorer(make_record(name), prefix=prefix, **how)

    @property
    def asked(self) -> Sequence[dict[str, Any]]:
        """All that engines were asked."""
        return [one for engine in self.engines for one in engine.asked]


def heard(name: str, label: str) -> Record:
    """With a sound."""
    import dataclasses

    record = make_record(name, label=label)
    return dataclasses.replace(record, clip=dataclasses.replace(record.clip, audio_path=f"/data/{name}.wav"))


@pytest.mark.parametrize("is_alone", [False, True])
def test_a_question_carries_all_that_the_engine_needs(is_alone: bool) -> None:
    scene = Scene(is_alone=is_alone)
    assert run(scene.ask()) == -508
    assert scene.asked == [
        {"media": "clip/av", "prefix_ids": [8], "text_ids": [5], "deadline_s": 7.0, "is_alone": is_alone}
    ]


def test_a_question_is_asked_once_while_it_is_on_its_way_and_after() -> None:
    async def work() -> None:
        scene = Scene()
        assert await asyncio.gather(*(scene.ask() for _ in range(8))) == [-508] * 8
        assert await scene.ask() == -508
        assert len(scene.asked) == 1

    run(work())


def test_every_part_of_a_question_tells_it_from_others() -> None:
    async def work() -> None:
        scene = Scene()
        await asyncio.gather(
            scene.ask(),
            scene.ask("other"),
            scene.ask(condition="audio_muted"),
            scene.ask(prefix="<think>"),
            scene.ask(text="sad"),
        )
        assert len(scene.asked) == 5

    run(work())


def test_nothing_is_remembered_from_one_policy_version_to_the_next() -> None:
    async def work() -> None:
        scene = Scene()
        await scene.ask()
        scene.version = 1
        await scene.ask()
        await scene.ask()
        assert len(scene.asked) == 2

    run(work())


def test_an_answer_of_an_older_version_that_comes_late_is_not_remembered_as_new() -> None:
    async def work() -> None:
        scene = Scene()
        old = asyncio.create_task(scene.ask())
        await asyncio.sleep(0.5)
        scene.version = 1
        new = asyncio.create_task(scene.ask())
        await asyncio.gather(old, new)
        assert len(scene.asked) == 2

    run(work())


@pytest.mark.parametrize("answer", [LATE, RequestRefusedError("gone")])
def test_a_failure_is_raised_and_not_remembered(answer: Failure | Exception) -> None:
    async def work() -> None:
        scene = Scene()
        scene.engines[0].answers = [answer]
        results = await asyncio.gather(scene.ask(), scene.ask(), return_exceptions=True)
        assert [type(r) for r in results] == [EngineError] * 2
        assert ("7 s passed" in str(results[0])) == isinstance(answer, Failure)
        assert await scene.ask() == -508

    run(work())


def test_a_clip_that_cannot_be_used_is_a_media_error_with_its_reason() -> None:
    scene = Scene(failure=Failure(stage="media", reason="no-audio-track", detail="clip.mp4 has none"))
    with pytest.raises(MediaError, match=r"clip\.mp4 has none") as caught:
        run(scene.ask(condition="audio_muted"))
    assert caught.value.reason == "no-audio-track"
    assert scene.asked == []


def test_a_lost_clip_is_made_again_and_the_question_asked_again() -> None:
    scene = Scene(is_alone=True)
    scene.engines[0].answers = [lost_clip("its node died")]
    assert run(scene.ask(condition="audio_swapped")) == -508
    first, second = scene.asked
    assert (first["media"], second["media"]) == ("clip/audio_swapped", "clip/audio_swapped+clip/audio_swapped")
    assert first | {"media": ""} == second | {"media": ""}
    assert scene.clips.asked == [("clip", "audio_swapped", "gloom")] * 2


def test_a_clip_that_is_always_lost_is_no_error_of_an_engine() -> None:
    scene = Scene()
    scene.engines[0].answers = [lost_clip("its node died")] * 9
    with pytest.raises(MediaError, match="its node died") as caught:
        run(scene.ask())
    assert caught.value.reason == "lost"
    assert len(scene.asked) == MAX_LOSSES + 1


def test_who_is_cancelled_cancels_nobody_else() -> None:
    async def work() -> None:
        scene = Scene()
        first, second = asyncio.create_task(scene.ask()), asyncio.create_task(scene.ask())
        await asyncio.sleep(0.5)
        first.cancel()
        assert await second == -508
        assert len(scene.asked) == 1

    run(work())


def test_a_sound_is_lent_by_a_clip_of_another_label_and_only_where_sounds_are_swapped() -> None:
    async def work() -> None:
        scene = Scene()
        await scene.ask(condition="audio_swapped")
        await scene.ask(condition="audio_muted")
        # the question's own label is happy, and who has no sound lends none
        assert scene.clips.asked == [("clip", "audio_swapped", "gloom"), ("clip", "audio_muted", None)]

    run(work())


def test_the_least_busy_engine_is_asked() -> None:
    async def work() -> None:
        scene = Scene(num_engines=2)
        await asyncio.gather(*(scene.ask(f"clip-{i}") for i in range(6)))
        assert [len(engine.asked) for engine in scene.engines] == [3, 3]

    run(work())
