"""The loop over fakes: what fails is replaced and recorded, what is there is trained once."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import DatasetError, PublishError
from common.types import (
    Completion,
    Failure,
    Generation,
    Group,
    MediaRef,
    Prompt,
    Record,
    Score,
    StepReport,
)
from learner.ledger import Ledger, read_ledger
from learner.loop import LoopParts, collect_groups, group_metrics, run_steps
from learner.publisher import PublishReport
from learner.stream import PromptStream, group_seed
from tests.support.builders import make_completion, make_draw, make_generation, make_group, make_record
from tests.support.clock import run

Fate = Callable[[str, int], Failure | None]
"""(prompt_id, asked so far) -> how it fails, or None."""
GROUP_SIZE = 2


class Bench:
    """A loop over a corpus of a few records; `fate` says which draws fail, and where."""

    def __init__(
        self, folder: Path, *, num_records: int = 6, groups_per_step: int = 2, fate: Fate | None = None
    ) -> None:
        self.log: list[str] = []
        self.trained: list[list[Group]] = []
        self.recorded: list[tuple[int, list[Group], StepReport, PublishReport]] = []
        self.version = 0
        self.publish_error: PublishError | None = None
        self.num_asked = 0
        self.max_in_flight = 0
        self._in_flight = 0
        self.fate = fate or (lambda *_: None)
        self.path = folder / "ledger.jsonl"
        self.records = [make_record(f"clip-{i}") for i in range(num_records)]
        self.stream = PromptStream(self.records, seed=1)
        self.parts = LoopParts(
            stream=self.stream,
            prepare=self.prepare,
            generate=self.generate,
            score=self.score,
            train=self.train,
            publisher=self,  # pyright: ignore[reportArgumentType]
            ledger=Ledger(self.path),
            record=self.record,
            seed=9,
            groups_per_step=groups_per_step,
        )

    def _failure(self, record: Record, stage: str) -> Failure | None:
        failure = self.fate(record.prompt_id, self.num_asked)
        return failure if failure is not None and failure.stage == stage else None

    async def prepare(self, record: Record) -> tuple[MediaRef, int] | Failure:
        """A handle and a length of 3."""
        self.num_asked += 1
        assert self.num_asked < 500, "the loop asks on for ever"
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        await asyncio.sleep(0)
        self._in_flight -= 1
        return self._failure(record, "media") or (MediaRef(record.prompt_id), 3)

    async def generate(self, prompt: Prompt) -> Generation | Failure:
        """Two completions at the current version."""
        assert prompt.media == prompt.draw.record.prompt_id
        return self._failure(prompt.draw.record, "rollout") or make_generation(GROUP_SIZE, version=self.version)

    async def score(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """0, 1, ..."""
        scores = [Score(total=float(i), breakdown={"accuracy": float(i)}) for i in range(len(completions))]
        return self._failure(record, "reward") or scores

    async def train(self, groups: Sequence[Group]) -> dict[str, float]:
        """Notes the batch."""
        self.log.append("train")
        self.trained.append(list(groups))
        return {"learner/loss": 0.5}

    async def publish(self) -> PublishReport:
        """The next version."""
        self.log.append("publish")
        if self.publish_error is not None:
            raise self.publish_error
        self.version += 1
        return PublishReport(version=self.version, num_tensors=1, num_bytes=4, canary={})

    def record(self, step: int, groups: Sequence[Group], report: StepReport, published: PublishReport) -> None:
        """Notes the step, and that its draws are on disk by now."""
        self.log.append("record")
        fates = [e["draw"] for e in read_ledger(self.path) if e.get("step") == step]
        assert fates == [g.prompt.draw.key for g in groups]
        self.recorded.append((step, list(groups), report, published))

    def run(self, steps: int) -> None:
        """The loop itself."""
        run(run_steps(self.parts, steps=steps))

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """Of the ledger, with these values."""
        return [e for e in read_ledger(self.path) if all(e.get(k) == v for k, v in wanted.items())]


def failure(stage: str, reason: str = "undecodable") -> Failure:
    """A failure of one stage."""
    return Failure(stage=stage, reason=reason, detail=f"{reason} in detail")  # pyright: ignore[reportArgumentType]


def test_a_step_trains_then_publishes_then_records(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    assert bench.log == ["train", "publish", "record"] * 2
    assert [(r[0], r[2].policy_version, r[3].version) for r in bench.recorded] == [(1, 1, 1), (2, 2, 2)]


def test_every_group_trains_once_and_in_the_order_of_the_stream(tmp_path: Path) -> None:
    bench = Bench(tmp_path, num_records=6, groups_per_step=2)
    bench.run(6)
    keys = [g.prompt.draw.key for batch in bench.trained for g in batch]
    expected = [d.key for d in PromptStream(bench.records, seed=1).take(12)]
    assert keys == expected
    assert len(set(keys)) == 12
    assert [e["draw"] for e in bench.entries(fate="trained")] == keys
    assert [e["step"] for e in bench.entries(fate="trained")] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_a_group_carries_its_draw_seed_and_scores(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(1)
    for group in bench.trained[0]:
        assert group.prompt.seed == group_seed(9, group.prompt.draw)
        assert group.prompt.num_prompt_tokens == 3
        assert [s.score.total for s in group.samples] == [0.0, 1.0]
        assert [len(s.completion.token_ids) for s in group.samples] == [1, 2]


@pytest.mark.parametrize("stage", ["media", "rollout", "reward"])
def test_a_draw_that_fails_is_recorded_and_another_takes_its_place(tmp_path: Path, stage: str) -> None:
    bench = Bench(
        tmp_path,
        num_records=6,
        groups_per_step=3,
        fate=lambda prompt_id, _: failure(stage, "broken") if prompt_id in {"clip-1", "clip-4"} else None,
    )
    bench.run(4)
    assert all(len(batch) == 3 for batch in bench.trained)
    names = {g.prompt.draw.record.prompt_id for batch in bench.trained for g in batch}
    assert names == {"clip-0", "clip-2", "clip-3", "clip-5"}
    failed = bench.entries(fate="failed")
    assert {e["draw"].split("/")[1] for e in failed} == {"clip-1", "clip-4"}
    assert {(e["stage"], e["reason"], e["detail"]) for e in failed} == {(stage, "broken", "broken in detail")}
    assert bench.parts.ledger.failures == {f"{stage}/broken": len(failed)}


def test_every_draw_before_the_cursor_has_one_fate(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, num_records=5, groups_per_step=2, fate=lambda p, _: failure("rollout") if p == "clip-2" else None
    )
    bench.run(5)
    fates = [e["draw"] for e in bench.entries() if "fate" in e]
    given = PromptStream(bench.records, seed=1).take(bench.stream.cursor)
    assert sorted(fates) == sorted(d.key for d in given)
    assert len(set(fates)) == len(fates)


def test_events_of_a_draw_come_in_their_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, groups_per_step=1)
    bench.run(1)
    (key,) = {e["draw"] for e in bench.entries()}
    assert [e.get("event") or e["fate"] for e in bench.entries(draw=key)] == [
        "asked",
        "generated",
        "scored",
        "trained",
    ]
    assert bench.entries(event="scored")[0]["mean"] == 0.5


def test_no_more_draws_are_in_flight_than_a_step_needs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, num_records=20, groups_per_step=4)
    bench.run(3)
    assert bench.max_in_flight == 4
    assert bench.num_asked == 12


def test_a_corpus_of_which_nothing_can_be_used_is_a_mistake_with_its_reasons(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        num_records=4,
        fate=lambda p, _: failure("media", "missing" if p == "clip-0" else "undecodable"),
    )
    with pytest.raises(DatasetError, match=r"media/missing x\d") as caught:
        bench.run(1)
    assert "media/undecodable x" in str(caught.value)
    # every clip had its turn, and few a second one
    failed = [e["draw"].split("/")[1] for e in bench.entries(fate="failed")]
    assert set(failed) == {"clip-0", "clip-1", "clip-2", "clip-3"}
    assert len(failed) == bench.num_asked <= 8
    assert bench.trained == []


def test_a_service_that_dies_within_a_step_does_not_make_the_loop_ask_for_ever(tmp_path: Path) -> None:
    # two of the first three draws succeed, the third and whatever takes its place fails
    bench = Bench(tmp_path, num_records=4, groups_per_step=3)
    first = PromptStream(bench.records, seed=1).take(1)[0].record.prompt_id
    bench.fate = lambda p, asked: failure("reward", "service-error") if p == first or asked > 3 else None
    with pytest.raises(DatasetError, match="reward/service-error"):
        bench.run(1)
    assert bench.trained == []


def test_a_corpus_with_one_good_clip_trains_on_it(tmp_path: Path) -> None:
    # orders differ from epoch to epoch: up to twice three failures lie between two groups
    bench = Bench(
        tmp_path,
        num_records=4,
        groups_per_step=1,
        fate=lambda p, _: None if p == "clip-3" else failure("media"),
    )
    bench.run(8)
    assert [g.prompt.draw.key for batch in bench.trained for g in batch] == [f"{e}/clip-3/0" for e in range(8)]


def test_nothing_of_a_step_is_recorded_when_its_publish_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish_error = PublishError("no", proof="receipt", engine="e", subject="t")
    with pytest.raises(PublishError):
        bench.run(1)
    assert bench.recorded == []
    assert not bench.path.exists() or bench.entries(fate="trained") == []


def test_seconds_are_those_of_the_step(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(2)
    for _, _, report, _ in bench.recorded:
        assert set(report.seconds) == {"rollout", "media", "generate", "reward", "learn", "publish"}
        assert all(s >= 0 for s in report.seconds.values())
    assert bench.recorded[0][2].seconds is not bench.recorded[1][2].seconds


def test_on_policy_groups_have_no_staleness(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run(3)
    assert [r[2].metrics["rollout/staleness/max"] for r in bench.recorded] == [0.0, 0.0, 0.0]
    assert [r[2].metrics["learner/loss"] for r in bench.recorded] == [0.5] * 3


def test_collecting_alone_trains_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, groups_per_step=3)
    groups = run(collect_groups(bench.parts))
    assert len(groups) == 3
    assert bench.trained == []


def test_metrics_of_a_batch_by_hand() -> None:
    groups = [make_group([1.0, 0.0], lengths=[2, 4]), make_group([0.5, 0.5], lengths=[1, 1], draw=make_draw("b"))]
    got = group_metrics(groups, learner_version=3)
    assert got["reward/total/mean"] == 0.5
    assert (got["reward/total/min"], got["reward/total/max"]) == (0.0, 1.0)
    assert got["reward/accuracy/mean"] == 0.5
    assert got["reward/equal_groups_fraction"] == 0.5
    assert (got["rollout/length/mean"], got["rollout/length/max"]) == (2.0, 4.0)
    assert got["rollout/staleness/mean"] == 3.0
    assert got["rollout/truncated_fraction"] == 0.0


def test_the_oldest_token_sets_a_generations_version() -> None:
    generation = make_generation(2, version=4)
    assert generation.min_policy_version == 4
    late = Generation(completions=(make_completion([1], version=5),), submission_version=4, engine="e")
    assert late.min_policy_version == 4
    early = Generation(completions=(make_completion([1], version=2),), submission_version=4, engine="e")
    assert early.min_policy_version == 2
