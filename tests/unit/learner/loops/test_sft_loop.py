"""The supervised stage over fakes: each step is whole, what fails is replaced and in the ledger."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from common.errors import DatasetError, NonFiniteError, StopRequestedError
from common.runtime.metrics import MetricsFile
from common.types import Failure, MediaRef, Prompt, Record
from learner.checkpoints.checkpoint import START, RunState
from learner.ledger import Ledger, check_ledger, read_ledger
from learner.loops.sft_loop import SftLoop, SftParts
from learner.loops.stream import PromptStream
from tests.support.builders import make_record
from tests.support.clock import run

BROKEN = Failure(stage="media", reason="undecodable", detail="broken")


class Stage:
    """A corpus of a few clips, of which some cannot be used."""

    def __init__(
        self, folder: Path, *, num_records: int = 5, bad: Callable[[str, int], bool] = lambda *_: False
    ) -> None:
        self.folder, self.bad = folder, bad
        self.records = [make_record(f"clip-{i}") for i in range(num_records)]
        self.steps: list[tuple[list[MediaRef], list[str]]] = []
        self.shown: list[str] = []
        self.num_asked = 0
        self.kept: list[RunState] = []
        self.not_finite: set[int] = set()

    async def prepare(self, record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int] | Failure:
        """A handle that says which clip it is."""
        self.num_asked += 1
        asked = self.num_asked
        assert asked < 500, "the stage asks on for ever"
        await asyncio.sleep(0)
        return BROKEN if self.bad(record.prompt_id, asked) else (MediaRef(record.prompt_id), 3)

    async def train(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> dict[str, float]:
        """Notes the step."""
        self.steps.append(([prompt.media for prompt in prompts], list(completions)))
        skipped = {"sft/is_skipped": 1.0} if len(self.steps) in self.not_finite else {}
        return {"sft/loss": 1.0 / len(self.steps), "sft/grad_norm": 0.5, **skipped}

    def step(self, step: int, text: str) -> None:
        """Shows a line."""
        self.shown.append(f"{step} {text}")

    async def save_checkpoint(self, state: RunState) -> None:
        """Notes the state."""
        self.kept.append(state)

    def run(
        self,
        *,
        steps: int,
        examples_per_step: int,
        should_stop: Callable[[], None] = lambda: None,
        state: RunState = START,
    ) -> SftLoop:
        """The stage itself."""
        loop = SftLoop(
            parts=SftParts(
                stream=PromptStream(self.records, seed=4, cursor=state.cursor),
                prepare=self.prepare,
                train=self.train,
                ledger=Ledger(self.folder / "ledger.jsonl"),
                metrics=MetricsFile(self.folder / "metrics.jsonl"),
                display=self,
                save_checkpoint=self.save_checkpoint,
                should_stop=should_stop,
                examples_per_step=examples_per_step,
                steps_per_checkpoint=2,
                max_non_finite_steps=1,
            ),
            state=state,
            last_step=steps,
        )
        run(loop.run())
        return loop


def test_every_clip_is_imitated_once_per_epoch_and_in_the_order_of_the_stream(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(steps=5, examples_per_step=2)
    stream = PromptStream(stage.records, seed=4)
    assert [p for prompts, _ in stage.steps for p in prompts] == [stream.next().record.prompt_id for _ in range(10)]
    assert [len(prompts) for prompts, _ in stage.steps] == [2] * 5
    assert check_ledger(tmp_path / "ledger.jsonl").faults == ()
    assert check_ledger(tmp_path / "ledger.jsonl").fates == {"trained": 10}
    assert MetricsFile(tmp_path / "metrics.jsonl").read()[1] == {"step": 2, "sft/loss": 0.5, "sft/grad_norm": 0.5}
    assert stage.shown[1] == "2 loss 0.500  gradient 0.50"


def test_a_clip_is_answered_with_its_explanation_or_else_its_label(tmp_path: Path) -> None:
    stage = Stage(tmp_path, num_records=1)
    stage.run(steps=1, examples_per_step=1)
    explained = make_record("clip-9")
    object.__setattr__(explained, "response", "<think>x</think><answer>happy</answer>")
    stage.records = [explained]
    stage.run(steps=1, examples_per_step=1)
    assert [answers for _, answers in stage.steps] == [["happy"], ["<think>x</think><answer>happy</answer>"]]


def test_a_clip_that_fails_is_replaced_and_in_the_ledger(tmp_path: Path) -> None:
    stage = Stage(tmp_path, bad=lambda name, _: name in {"clip-1", "clip-3"})
    stage.run(steps=3, examples_per_step=3)
    assert [len(prompts) for prompts, _ in stage.steps] == [3, 3, 3]
    assert {p for prompts, _ in stage.steps for p in prompts} == {"clip-0", "clip-2", "clip-4"}
    failed = [e for e in read_ledger(tmp_path / "ledger.jsonl") if e.get("fate") == "failed"]
    assert {e["draw"].split("/")[1] for e in failed} == {"clip-1", "clip-3"}
    assert {(e["stage"], e["reason"], e["detail"]) for e in failed} == {("media", "undecodable", "broken")}
    found = check_ledger(tmp_path / "ledger.jsonl")
    assert (found.faults, found.open_draws) == ((), ())
    assert found.fates == {"trained": 9, "failed": len(failed)}


def test_a_corpus_of_which_nothing_can_be_used_is_a_mistake_with_its_reasons(tmp_path: Path) -> None:
    stage = Stage(tmp_path, bad=lambda *_: True)
    with pytest.raises(DatasetError, match=r"data\.cold_start must be usable.*media/undecodable x\d+"):
        stage.run(steps=1, examples_per_step=2)
    assert stage.steps == []
    # every clip had its turn, and is in the ledger
    failed = {e["draw"].split("/")[1] for e in read_ledger(tmp_path / "ledger.jsonl") if e.get("fate") == "failed"}
    assert failed == {f"clip-{i}" for i in range(5)}


def test_one_good_clip_is_enough(tmp_path: Path) -> None:
    stage = Stage(tmp_path, bad=lambda name, _: name != "clip-2")
    stage.run(steps=4, examples_per_step=2)
    assert [prompts for prompts, _ in stage.steps] == [["clip-2", "clip-2"]] * 4


def test_media_that_dies_midway_does_not_make_the_stage_ask_for_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path, bad=lambda _, asked: asked > 4)
    with pytest.raises(DatasetError):
        stage.run(steps=9, examples_per_step=3)
    assert len(stage.steps) == 1


def test_a_stop_is_heeded_between_steps(tmp_path: Path) -> None:
    stage = Stage(tmp_path)

    def should_stop() -> None:
        if len(stage.steps) == 2:
            raise StopRequestedError("stop")

    with pytest.raises(StopRequestedError):
        stage.run(steps=9, examples_per_step=2, should_stop=should_stop)
    assert [line["step"] for line in MetricsFile(tmp_path / "metrics.jsonl").read()] == [1, 2]
    assert check_ledger(tmp_path / "ledger.jsonl").faults == ()


def test_a_stage_resumed_from_a_checkpoint_imitates_what_comes_next(tmp_path: Path) -> None:
    whole = Stage(tmp_path)
    whole.run(steps=5, examples_per_step=2)
    assert [state.step for state in whole.kept] == [2, 4]
    later = tmp_path / "later"
    later.mkdir()
    resumed = Stage(later)
    loop = resumed.run(steps=5, examples_per_step=2, state=whole.kept[0])
    assert resumed.steps == whole.steps[2:]
    assert loop.state.step == 5
    assert loop.state.cursor == 10


def test_the_last_step_leaves_no_checkpoint_as_the_stage_leaves_its_model(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.run(steps=4, examples_per_step=2)
    assert [state.step for state in stage.kept] == [2]


def test_a_step_that_is_not_finite_is_left_out_and_its_clips_are_filtered(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.not_finite = {2, 4}
    assert stage.run(steps=5, examples_per_step=2).state.step == 5
    found = check_ledger(tmp_path / "ledger.jsonl")
    assert (found.faults, found.fates) == ((), {"trained": 6, "filtered": 4})


def test_too_many_steps_in_a_row_that_are_not_finite_stop_the_stage(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.not_finite = {2, 3}
    with pytest.raises(NonFiniteError, match="at step 3"):
        stage.run(steps=5, examples_per_step=2)
    assert check_ledger(tmp_path / "ledger.jsonl").fates == {"trained": 2, "filtered": 4}
