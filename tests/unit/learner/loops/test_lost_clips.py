"""Clips that are lost between their preparation and their use: made again, with the same seed, in one draw."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from common.prompts.lost_clips import MAX_LOSSES, NOT_STARTED, is_lost, lost_clip
from common.types import Failure, Generation, MediaRef, Prompt, Record
from tests.support.builders import make_generation
from tests.support.loop_bench import GROUP_SIZE, Bench, Plan

NUM_ENGINES = 2


class Memory(Bench):
    """A media stage with a cache, and engines that find some handles dead."""

    def __init__(
        self, folder: Path, *, is_dead: Callable[[str, int], bool], fails_again: bool = False, lockstep: bool
    ) -> None:
        super().__init__(folder, Plan(num_records=6, groups_per_step=4, is_lockstep=lockstep))
        self.is_dead, self.fails_again = is_dead, fails_again
        """(prompt_id, number of the preparation)"""
        self.kept: dict[str, str] = {}
        self.num_prepared = Counter[str]()
        self.asked: list[tuple[str, int, str]] = []
        """Draw, seed and handle of each request."""
        self.started: list[list[str]] = []
        """Draws of each share that an engine began."""

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        name = record.prompt_id
        if lost is not None and self.kept.get(name) == lost:
            del self.kept[name]
        await asyncio.sleep(0)
        if lost is not None and self.fails_again:
            return Failure(stage="media", reason="task-error", detail="again")
        if name not in self.kept:
            self.num_prepared[name] += 1
            self.kept[name] = f"{name}#{self.num_prepared[name]}"
        return MediaRef(self.kept[name]), 3

    def _look(self, prompt: Prompt) -> Failure | None:
        name, number = str(prompt.media).split("#")
        assert name == prompt.draw.record.prompt_id
        self.asked.append((prompt.draw.key, prompt.seed, str(prompt.media)))
        return lost_clip("the node is gone") if self.is_dead(name, int(number)) else None

    async def generate(self, prompt: Prompt) -> Generation | Failure:
        await asyncio.sleep(0)
        return self._look(prompt) or make_generation(GROUP_SIZE, version=self.version)

    async def together(self, prompts: Sequence[Prompt]) -> list[Generation | Failure]:
        answers: list[Generation | Failure] = list(prompts)  # pyright: ignore[reportAssignmentType]
        for engine in range(NUM_ENGINES):
            share = prompts[engine::NUM_ENGINES]
            found = [self._look(prompt) for prompt in share]
            if not any(found):
                self.started.append([prompt.draw.key for prompt in share])
            fine = NOT_STARTED if any(found) else make_generation(GROUP_SIZE, version=self.version)
            answers[engine::NUM_ENGINES] = [lost or fine for lost in found]
        return answers


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_lost_clip_is_made_again_and_its_draw_asked_with_the_same_seed(tmp_path: Path, lockstep: bool) -> None:
    bench = Memory(tmp_path, is_dead=lambda name, number: name == "clip-2" and number <= 2, lockstep=lockstep)
    bench.run(3)
    handles = [handle for _, _, handle in bench.asked if handle.startswith("clip-2#")]
    assert list(dict.fromkeys(handles)) == ["clip-2#1", "clip-2#2", "clip-2#3"]
    # the cache keeps the living handle: no other clip and no later draw was made twice
    assert bench.num_prepared == {f"clip-{i}": 3 if i == 2 else 1 for i in range(6)}
    assert len({seed for _, seed, _ in bench.asked}) == len({key for key, _, _ in bench.asked}) == 12
    assert {str(g.prompt.media) for batch in bench.seen.trained for g in batch} == set(bench.kept.values())
    assert bench.entries(fate="failed") == []
    assert len(bench.entries(event="asked")) == len(bench.entries(event="generated")) == 12
    assert bench.faults() == ()


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_clip_that_is_always_lost_fails_its_draw_and_is_replaced(tmp_path: Path, lockstep: bool) -> None:
    bench = Memory(tmp_path, is_dead=lambda name, _: name == "clip-2", lockstep=lockstep)
    bench.run(1)
    assert [len(batch) for batch in bench.seen.trained] == [4]
    failed = bench.entries(fate="failed")
    assert {(e["stage"], e["reason"], e["detail"]) for e in failed} == {("media", "lost", "the node is gone")}
    asked = Counter(key for key, _, handle in bench.asked if handle.startswith("clip-2#"))
    assert asked == {entry["draw"]: MAX_LOSSES + 1 for entry in failed}
    assert bench.faults() == ()


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_lost_clip_that_cannot_be_made_again_fails_its_draw(tmp_path: Path, lockstep: bool) -> None:
    dead = {"clip-2"}
    bench = Memory(tmp_path, is_dead=lambda name, _: name in dead, fails_again=True, lockstep=lockstep)
    bench.run(1)
    assert {(e["stage"], e["reason"]) for e in bench.entries(fate="failed")} == {("media", "task-error")}
    assert {e["draw"].split("/")[1] for e in bench.entries(fate="failed")} == dead
    assert bench.faults() == ()


def test_a_whole_batch_is_asked_again_in_its_order_and_nothing_starts_without_a_clip(tmp_path: Path) -> None:
    whole = Memory(tmp_path, is_dead=lambda *_: False, lockstep=True)
    whole.run(1)
    later = tmp_path / "later"
    later.mkdir()
    bench = Memory(later, is_dead=lambda name, number: name == "clip-2" and number == 1, lockstep=True)
    bench.run(1)
    # the engine with the lost clip began once, with its whole share; the other one repeats what it did
    assert {tuple(share) for share in bench.started} == {tuple(share) for share in whole.started}
    assert all(len(share) == 2 for share in bench.started)
    assert bench.trained_keys == whole.trained_keys
    keys = [key for key, _, _ in bench.asked]
    assert keys[:4] == keys[4:]


def test_only_a_lost_clip_is_lost() -> None:
    assert is_lost(lost_clip("x"))
    assert not is_lost(NOT_STARTED)
    assert not is_lost(Failure(stage="media", reason="undecodable", detail="x"))
    assert not is_lost(Failure(stage="reward", reason="lost", detail="x"))
    assert not is_lost(make_generation(GROUP_SIZE))
