"""The demo's recipe with one thing taken away, from the same cold start: what GRPO gains must then be gone.

python -m tests.e2e.control shuffled_rewards --config my.yaml     rewards change places between the groups of a step
python -m tests.e2e.control swap_audio --corpus DIR --out DIR     every clip of `train` gets another's audio
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import deploy.stages.grpo_stage
import learner.main
from common.types import Completion, Failure, Record, Score
from deploy.wiring import Run, open_reward


class ShuffledRewards:
    """A `ScoreFn` that waits for a whole step's groups and gives each another's scores."""

    def __init__(self, inner: Any, *, groups_per_step: int, seed: int) -> None:
        self.sources, self.take_metrics = inner.sources, inner.take_metrics
        self._inner, self._count, self._rng = inner, groups_per_step, random.Random(seed)
        self._waiting: list[tuple[list[Score], asyncio.Future[list[Score]]]] = []

    async def __call__(self, record: Record, completions: Sequence[Completion]) -> list[Score] | Failure:
        """Another group's."""
        scores = await self._inner(record, completions)
        if isinstance(scores, Failure):
            return scores
        mine: asyncio.Future[list[Score]] = asyncio.get_running_loop().create_future()
        self._waiting.append((scores, mine))
        if len(self._waiting) == self._count:
            order = self._rng.sample(range(self._count), self._count)
            step, self._waiting = self._waiting, []
            # a cycle in random order: nobody keeps his own
            for place, index in enumerate(order):
                step[index][1].set_result(step[order[place - 1]][0])
        return await mine


@asynccontextmanager
async def shuffled_reward(run: Run) -> AsyncGenerator[ShuffledRewards]:
    """The reward service with its answers shuffled."""
    async with open_reward(run) as inner:
        config = run.config
        yield ShuffledRewards(inner, groups_per_step=config.learner.groups_per_step, seed=config.run.seed)


def swap_audio(corpus: Path, out: Path) -> Path:
    """Writes the clips of `train` with their own pictures and another clip's audio track; labels stay.

    Returns:
        The JSON file.
    """
    records: list[dict[str, Any]] = json.loads((corpus / "train.json").read_text())
    order = random.Random(0).sample(range(len(records)), len(records))
    (out / "clips").mkdir(parents=True)
    for place, index in enumerate(order):
        _remux(
            out / records[index]["video"],
            video=corpus / records[index]["video"],
            audio=corpus / records[order[place - 1]]["video"],
        )
    (out / "train.json").write_text(json.dumps(records))
    return out / "train.json"


def _remux(target: Path, *, video: Path, audio: Path) -> None:
    import av

    with av.open(str(target), "w", format="mp4") as made, av.open(str(video)) as seen, av.open(str(audio)) as heard:
        sources = (seen.streams.video[0], heard.streams.audio[0])
        # both are there before the first packet, with which the header is written
        tracks = [made.add_stream_from_template(source) for source in sources]
        packets = [
            (float(packet.dts * packet.time_base), track, packet)
            for source, track in zip(sources, tracks, strict=True)
            for packet in source.container.demux(source)
            if packet.dts is not None and packet.time_base is not None
        ]
        for _, track, packet in sorted(packets, key=lambda one: one[0]):
            packet.stream = track
            made.mux(packet)


def main(argv: Sequence[str]) -> int:
    """Runs a control."""
    if argv[0] == "swap_audio":
        parser = argparse.ArgumentParser()
        parser.add_argument("--corpus", type=Path, required=True)
        parser.add_argument("--out", type=Path, required=True)
        given = parser.parse_args(argv[1:])
        print(swap_audio(given.corpus, given.out))
        return 0
    assert argv[0] == "shuffled_rewards"
    deploy.stages.grpo_stage.open_reward = shuffled_reward  # pyright: ignore[reportAttributeAccessIssue]
    return learner.main.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
