"""Explanations by rejection sampling: a model answers about each clip until an answer is usable.

Every attempt is a line of an append-only log, from which the same command resumes.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from common.datasets.cold_start.rationale import fault_of
from common.datasets.cold_start.records import Explained
from common.errors import DatasetError, MediaError
from common.labels import TAXONOMIES
from common.media.decode import decode_clip
from common.types import DecodedClip, Record

ACCEPTED = "accepted"
HINT = (
    "\nSay in the thinking process what is seen and heard, and which emotion it speaks for; do not name an emotion "
    "that you rule out at the end. The answer is one word{classes}."
)


class AskFn(Protocol):
    async def __call__(
        self, clip: DecodedClip, question: str, *, temperature: float, max_tokens: int, seed: int
    ) -> str: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    count: int
    """Clips to explain."""
    attempts: int
    """Most attempts per clip."""
    taxonomy: str
    model: str
    temperature: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    num_parallel: int = 4
    """Clips in flight."""
    max_frames: int = 8
    max_audio_s: float = 30.0
    max_video_s: float = 60.0


@dataclass(kw_only=True, slots=True)
class Outcome:
    explained: dict[str, Explained] = field(default_factory=dict[str, Explained])
    """Answers of accepted clips by id."""
    verdicts: Counter[str] = field(default_factory=Counter[str])
    """Attempts by their fault or `accepted`; undecodable clips by the reason."""


async def sample_rationales(
    records: Sequence[Record],
    ask: AskFn,
    sampling: Sampling,
    *,
    log: Path,
    on_accepted: Callable[[int], None],
) -> Outcome:
    """Samples answers for each record, in order, until enough clips have an accepted one.

    Clips in the log are not sent again; `on_accepted` receives the number of accepted clips.

    Raises:
        DatasetError: the log is of another model or damaged.
    """
    outcome, tried = _resumed(records, sampling, log)
    on_accepted(len(outcome.explained))
    # one iterator for all workers: each record is sampled by one of them
    waiting = iter([r for r in records if r.prompt_id not in outcome.explained])
    with log.open("a", encoding="utf-8") as written:

        def note(record: Record, attempt: int, verdict: str, text: str) -> None:
            clip, model = record.prompt_id, sampling.model
            line = {"clip": clip, "attempt": attempt, "verdict": verdict, "text": text, "model": model}
            written.write(json.dumps(line, ensure_ascii=False) + "\n")
            written.flush()
            _count(outcome, record, line)
            on_accepted(len(outcome.explained))

        async def work() -> None:
            for record in waiting:
                if len(outcome.explained) >= sampling.count:
                    return
                await _sample(record, ask, sampling, first=tried.get(record.prompt_id, 0), note=note)

        tasks = [asyncio.create_task(work()) for _ in range(sampling.num_parallel)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return outcome


async def _sample(
    record: Record,
    ask: AskFn,
    sampling: Sampling,
    *,
    first: int,
    note: Callable[[Record, int, str, str], None],
) -> None:
    if first >= sampling.attempts:
        return
    try:
        clip = await asyncio.to_thread(
            decode_clip,
            record.clip,
            max_fps=sampling.max_frames,
            max_frames=sampling.max_frames,
            max_audio_s=sampling.max_audio_s,
            max_video_s=sampling.max_video_s,
        )
    except MediaError as error:
        note(record, sampling.attempts, error.reason, str(error))
        return
    classes = TAXONOMIES[sampling.taxonomy]
    question = record.question + HINT.format(classes=f" of {', '.join(classes)}" if classes else "")
    for attempt in range(first, sampling.attempts):
        text = await ask(
            clip,
            question,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            # with the same seed a server may repeat its answer
            seed=sampling.seed + attempt,
        )
        labels = record.labels or (record.label,)
        fault = fault_of(text, labels=labels, taxonomy=sampling.taxonomy)
        note(record, attempt + 1, fault or ACCEPTED, text)
        if fault is None:
            return


def _resumed(records: Sequence[Record], sampling: Sampling, log: Path) -> tuple[Outcome, dict[str, int]]:
    """The results of an earlier command and the number of attempts per clip; an incomplete last line is cut off."""
    outcome, tried = Outcome(), dict[str, int]()
    if not log.exists():
        return outcome, tried
    text = log.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        log.write_text(whole, encoding="utf-8")
    known = {record.prompt_id: record for record in records}
    for number, line in enumerate(whole.split("\n")[:-1], start=1):
        try:
            entry = cast(dict[str, Any], json.loads(line))
            clip, model = str(entry["clip"]), str(entry["model"])
            attempt = int(entry["attempt"])
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{log}:{number}: a line must be an attempt, got {line[:60]!r}; remove it"
            ) from error
        if model != sampling.model:
            raise DatasetError(
                f"{log}:{number}: attempts must be of --model {sampling.model}, got {model}; name another --out"
            )
        if clip in known:
            tried[clip] = max(tried.get(clip, 0), attempt)
            _count(outcome, known[clip], entry)
    return outcome, tried


def _count(outcome: Outcome, record: Record, entry: Mapping[str, Any]) -> None:
    outcome.verdicts[str(entry["verdict"])] += 1
    if entry["verdict"] == ACCEPTED:
        outcome.explained[record.prompt_id] = Explained(
            record=record,
            response=str(entry["text"]).strip(),
            provenance={"kind": "rejection", "model": entry["model"], "attempt": entry["attempt"]},
        )
