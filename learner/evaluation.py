"""Asks a policy about held-out clips, one greedy answer each, and keeps what it said.

`judge` consumes records and produces judged clips, in order. It waits for media tasks and engines, at most so many
clips at once. All answers are of one policy version: nothing is published while it runs.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.durable import read_lines, write_whole
from common.errors import DatasetError
from common.evaluation.controls import Condition
from common.evaluation.metrics import Estimate, Recognition, recognition
from common.labels import answer_of, has_form
from common.protocols import GenerateFn, PrepareFn
from common.types import Draw, Failure, Prompt, Record
from learner.producer import REMEDIES

logger = logging.getLogger(__name__)
_REMEDIES = {**REMEDIES, "media": "check data.heldout.media_root and the files"}


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedClip:
    """What a policy said of a clip."""

    prompt_id: str
    label: str
    answer: str | None
    """None where the clip could not be asked."""
    text: str
    has_form: bool
    """Whether the whole completion is in the paper's form."""
    failure: str | None = None
    """Why the clip could not be asked; it counts as wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One policy on the held-out clips."""

    policy: str
    policy_version: int
    recognition: Recognition
    format_rate: float
    """Share of completions in the paper's form."""
    num_failed: int
    """Clips that could not be asked."""


async def judge(
    records: Sequence[Record],
    *,
    prepare: PrepareFn,
    generate: GenerateFn,
    max_in_flight: int,
    on_clip: Callable[[int, int], None],
) -> list[JudgedClip]:
    """Asks every clip once.

    Args:
        records: the held-out clips.
        prepare: the media stage.
        generate: greedy, one completion.
        max_in_flight: clips asked at once.
        on_clip: called with the number of clips judged and of all.
    """
    room = asyncio.Semaphore(max_in_flight)
    num_done = 0

    async def one(position: int, record: Record) -> JudgedClip:
        nonlocal num_done
        async with room:
            clip = await _ask(position, record, prepare=prepare, generate=generate)
        num_done += 1
        on_clip(num_done, len(records))
        return clip

    return list(await asyncio.gather(*(one(i, r) for i, r in enumerate(records))))


async def _ask(position: int, record: Record, *, prepare: PrepareFn, generate: GenerateFn) -> JudgedClip:
    def failed(failure: Failure) -> JudgedClip:
        reason = f"{failure.stage}/{failure.reason}: {failure.detail}"
        logger.warning("held-out clip %s failed: %s", record.prompt_id, reason)
        return JudgedClip(
            prompt_id=record.prompt_id, label=record.label, answer=None, text="", has_form=False, failure=reason
        )

    prepared = await prepare(record)
    if isinstance(prepared, Failure):
        return failed(prepared)
    draw = Draw(epoch=0, record=record, draw=0, position=position)
    generation = await generate(Prompt(draw=draw, media=prepared[0], num_prompt_tokens=prepared[1], seed=0))
    if isinstance(generation, Failure):
        return failed(generation)
    text = generation.completions[0].text
    return JudgedClip(
        prompt_id=record.prompt_id,
        label=record.label,
        answer=answer_of(text),
        text=text,
        has_form=has_form(text),
    )


def judgement_of(clips: Sequence[JudgedClip], *, policy: str, policy_version: int) -> Judgement:
    """What the clips come to; one that could not be asked is wrong.

    Raises:
        DatasetError: not one could be asked, which says nothing about the policy.
    """
    failures = Counter(clip.failure.split(":")[0] for clip in clips if clip.failure is not None)
    if clips and failures.total() == len(clips):
        reasons = ", ".join(f"{reason} x{count}" for reason, count in failures.items())
        stage = failures.most_common(1)[0][0].split("/")[0]
        raise DatasetError(f"some held-out clip must be usable, got only failures: {reasons}; {_REMEDIES[stage]}")
    return Judgement(
        policy=policy,
        policy_version=policy_version,
        recognition=recognition([c.label.lower() for c in clips], [c.answer for c in clips]),
        format_rate=sum(c.has_form for c in clips) / len(clips),
        num_failed=sum(c.failure is not None for c in clips),
    )


def judgement_name(policy: str, condition: Condition) -> str:
    """What a policy's judgement in a condition is called."""
    return policy if condition == "av" else f"{policy}_{condition}"


def judgement_metrics(judgement: Judgement) -> dict[str, float]:
    """As points of a curve."""
    values = {
        "war": judgement.recognition.war.value,
        "uar": judgement.recognition.uar.value,
        "format_rate": judgement.format_rate,
    }
    return {f"eval/{judgement.policy}/{name}": value for name, value in values.items()}


def write_judgement(folder: Path, judgement: Judgement, clips: Sequence[JudgedClip]) -> None:
    """`<policy>.jsonl`, a line per clip, then `<policy>.json`, whose presence says that both are whole."""
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = "".join(json.dumps(asdict(clip), ensure_ascii=False) + "\n" for clip in clips)
    write_whole(folder / f"{judgement.policy}.jsonl", lines)
    write_whole(folder / f"{judgement.policy}.json", json.dumps(asdict(judgement), indent=1) + "\n")


def read_judgement(folder: Path, policy: str) -> Judgement | None:
    """What `write_judgement` wrote; None where it has not."""
    path = folder / f"{policy}.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    found = values.pop("recognition")
    war, uar = Estimate(**found.pop("war")), Estimate(**found.pop("uar"))
    return Judgement(recognition=Recognition(war=war, uar=uar, **found), **values)


def read_judged_clips(folder: Path, policy: str) -> list[JudgedClip]:
    """The clips that a judgement was made of."""
    return [JudgedClip(**line) for line in read_lines(folder / f"{policy}.jsonl")]
