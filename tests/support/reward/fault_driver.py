"""A driver without engines: real producer, ledger and reward service, for tests that harm the service from outside.

    RAY_ADDRESS=... python -m tests.support.reward.fault_driver

Reads one `Cell` per line of stdin, and one empty line to end it. Writes lines of JSON: `open`, `scored` for each
group, then `done`, and `closed` after the empty line.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from common.config.reward import RewardConfig
from common.types import Completion, Failure, Generation, MediaRef, Prompt, Record, Score
from deploy import wiring
from learner.ledger import Ledger
from learner.loops.producer import GroupProducer
from learner.loops.staleness_buffer import GroupBuffer
from learner.loops.stream import PromptStream
from learner.records.event_log import EventLog
from tests.support.builders import make_completion, make_record

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scoring of many groups."""

    folder: str
    """Of the ledger."""
    reward: dict[str, Any]
    """A line of the configuration."""
    num_groups: int
    group_deadline_s: float
    named_restarts: int
    """Restarts of the named actor."""


class TeamReward:
    """A named actor, which knows no class of ours."""

    def score(self, samples: list[dict[str, Any]]) -> list[float]:
        """The lengths."""
        time.sleep(0.2)
        return [float(len(sample["completion"])) for sample in samples]


def say(event: str, line: str = "", **details: Any) -> None:
    """Writes one line."""
    print(json.dumps({"event": event, "line": line, **details}), flush=True)


def start_named(max_restarts: int) -> Any:
    """The team's actor; its node has no other reward."""
    options = {"name": "team", "namespace": "rewards", "num_cpus": 2, "max_restarts": max_restarts}
    return ray.remote(TeamReward).options(**options).remote()  # pyright: ignore[reportCallIssue]


@asynccontextmanager
async def named_actor(cell: Cell) -> AsyncGenerator[None]:
    """The team's actor, started again by hand wherever Ray does not do it."""
    if cell.reward["type"] != "named_actor":
        yield
        return
    handle = start_named(cell.named_restarts)
    await handle.score.remote([])

    async def revive() -> None:
        nonlocal handle
        while True:
            await asyncio.sleep(0.5)
            try:
                ray.get_actor("team", namespace="rewards")
            except ValueError:
                await asyncio.sleep(1.0)
                handle = start_named(cell.named_restarts)

    reviving = asyncio.create_task(revive())
    try:
        yield
    finally:
        reviving.cancel()
        ray.kill(handle)


def producer_of(cell: Cell, client: Any) -> GroupProducer:
    """Completions of 3 and 4 letters for every draw; the rest is real."""
    folder, num_scored = Path(cell.folder), 0

    async def prepare(record: Record, *, lost: MediaRef | None = None) -> tuple[MediaRef, int]:
        return MediaRef(record), 3

    async def generate(prompt: Prompt) -> Generation:
        completions = tuple(make_completion([1], text=text) for text in ("abc", "abcd"))
        return Generation(completions=completions, submission_version=0, engine="engine-0")

    async def score(record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        nonlocal num_scored
        answer = await client(record, completions)
        num_scored += 1
        say("scored", count=num_scored, failure=repr(answer) if isinstance(answer, Failure) else None)
        return answer

    return GroupProducer(
        stream=PromptStream([make_record(f"clip-{i}") for i in range(cell.num_groups)], seed=1),
        prepare=prepare,
        generate=generate,
        score=score,
        ledger=Ledger(folder / "ledger.jsonl"),
        buffer=GroupBuffer(max_staleness=0),
        events=EventLog(folder / "events.jsonl"),
        seed=9,
        max_redraws=0,
    )


async def score_all(cell: Cell, client: Any) -> None:
    """One step over all groups, with its entries in the ledger."""
    producer = producer_of(cell, client)
    producer.start(cell.num_groups)
    groups = await producer.batch(cell.num_groups, learner_version=0)
    for group in groups:
        producer.ledger.trained(group.prompt.draw, step=1)
    producer.ledger.stepped(1, outstanding=producer.outstanding(), cursor=producer.stream.cursor)
    producer.ledger.commit()
    totals = [[sample.score.total for sample in group.samples] for group in groups]
    say("done", totals=totals, metrics=client.take_metrics())


async def run(cell: Cell) -> None:
    """Opens the service as a run does, scores, and ends it."""
    reward = RewardConfig.model_validate(
        {"rewards": [cell.reward], "deadline_s": cell.group_deadline_s, "num_cpus": 3.0}
    )
    progress = SimpleNamespace(say=partial(say, "decision"))
    run: Any = SimpleNamespace(config=SimpleNamespace(reward=reward), progress=progress)
    async with named_actor(cell), wiring.open_reward(run) as client:
        say("open")
        await score_all(cell, client)
        await asyncio.to_thread(sys.stdin.readline)
    say("closed")


async def main() -> None:
    """Cells until the end of stdin."""
    # seconds after which a service that does not answer is given up, beside the group's deadline
    wiring.GRACE_S = 2.0
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            await run(Cell(**json.loads(line)))
        except Exception as error:  # noqa: BLE001 - the test fails with it
            say("error", error=repr(error))


if __name__ == "__main__":
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ray.init(
        address=os.environ["RAY_ADDRESS"],
        namespace=wiring.NAMESPACE,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    asyncio.run(main())
