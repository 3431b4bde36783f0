"""The driver's handle of all ranks over fakes: every rank has its clips before any rank starts a step."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.errors import LearnerError
from common.prompts.lost_clips import MAX_LOSSES
from common.types import Failure, Group, MediaRef, Prompt, Record
from learner.actor import RankClients
from tests.support.builders import make_draw, make_group
from tests.support.clock import run


class Remote:
    """A method of an actor."""

    def __init__(self, method: Any) -> None:
        self.method = method

    async def remote(self, *args: Any) -> Any:
        await asyncio.sleep(0)
        return self.method(*args)


class Rank:
    """Holds the clips that were fetched; a step needs all of them."""

    def __init__(self, log: list[str], dead: set[str]) -> None:
        self.log, self.dead, self.held = log, dead, list[str]()
        self.fetch, self.train_step, self.sft_step = Remote(self._fetch), Remote(self._step), Remote(self._step)

    def _fetch(self, media: list[str]) -> dict[int, str]:
        self.log.append("fetch")
        self.held = [one for one in media if one not in self.dead]
        return {i: "its node died" for i, one in enumerate(media) if one in self.dead}

    def _step(self, items: Sequence[Any]) -> dict[str, float]:
        self.log.append(f"step {' '.join(self.held)}")
        assert len(self.held) == len(items)
        return {"loss": 0.5}


class Scene:
    """Two ranks and a media stage that numbers the handles of a clip."""

    def __init__(self, *, dead: set[str], failure: Failure | None = None) -> None:
        self.log: list[str] = []
        self.failure = failure
        self.renewed: list[tuple[str, str]] = []
        self.ranks = RankClients([Rank(self.log, dead) for _ in range(2)], prepare=self.prepare)

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        name, number = str(lost).split("#")
        assert name == record.prompt_id
        self.renewed.append((name, number))
        return self.failure or (MediaRef(f"{name}#{int(number) + 1}"), 3)


def prompts() -> list[Prompt]:
    return [
        Prompt(draw=make_draw(name), media=MediaRef(f"{name}#1"), num_prompt_tokens=3, seed=0)
        for name in ("a", "b", "c", "d")
    ]


def groups() -> list[Group]:
    return [replace(make_group([1.0, 0.0]), prompt=prompt) for prompt in prompts()]


async def train(scene: Scene, how: str) -> dict[str, float]:
    if how == "grpo":
        return await scene.ranks.train(groups())
    return await scene.ranks.train_sft(prompts(), ["x"] * 4)


@pytest.mark.parametrize("how", ["grpo", "sft"])
def test_no_rank_starts_before_all_clips_are_there(how: str) -> None:
    scene = Scene(dead={"b#1", "c#1", "c#2"})
    assert run(train(scene, how)) == {"loss": 0.5}
    steps = [line for line in scene.log if line.startswith("step")]
    assert scene.log == ["fetch"] * 6 + steps
    assert len(steps) == 2
    assert sorted(" ".join(steps).replace("step ", "").split()) == ["a#1", "b#2", "c#3", "d#1"]
    assert sorted(scene.renewed) == [("b", "1"), ("c", "1"), ("c", "2")]


@pytest.mark.parametrize("how", ["grpo", "sft"])
def test_a_step_without_losses_fetches_once(how: str) -> None:
    scene = Scene(dead=set())
    run(train(scene, how))
    assert (scene.log.count("fetch"), scene.renewed) == (2, [])


def test_a_clip_that_is_always_lost_ends_in_an_error_and_no_rank_started() -> None:
    scene = Scene(dead={f"b#{i}" for i in range(99)})
    with pytest.raises(LearnerError, match="the clip of draw 0/b/0 was lost and could not be made again: its node"):
        run(train(scene, "grpo"))
    assert scene.log == ["fetch"] * 2 * (MAX_LOSSES + 1)


def test_a_lost_clip_that_cannot_be_decoded_any_more_is_named() -> None:
    scene = Scene(dead={"b#1"}, failure=Failure(stage="media", reason="missing", detail="b.mp4 is gone"))
    with pytest.raises(LearnerError, match=r"draw 0/b/0 .*: missing: b\.mp4 is gone"):
        run(train(scene, "grpo"))
    assert scene.log == ["fetch"] * 2
