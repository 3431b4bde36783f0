"""Asks a policy about held-out clips, one greedy answer each, and scores the answers.

`predict_clips` consumes records and produces predictions, in order. It waits for media tasks and engines, which
unblock it within their own deadlines; the number of clips in flight is bounded. All answers are of one policy
version: nothing is published meanwhile.
"""

import asyncio
import functools
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DatasetError
from common.evaluation.assessment import ReadPrediction, read_all, verbatim_answer
from common.evaluation.metrics import Estimate, Recognition, recognition
from common.evaluation.predictions import AS_GIVEN, Prediction
from common.labels import has_form
from common.prompts.lost_clips import with_clip
from common.protocols import GenerateFn, PrepareFn
from common.runtime.atomic_files import atomic_write_text
from common.types import Condition, Draw, Failure, Generation, MediaRef, Prompt, Record
from learner.loops.failure_tracker import only_failures
from learner.loops.producer import REMEDIES

logger = logging.getLogger(__name__)
_REMEDIES = {**REMEDIES, "media": "check data.heldout.media_root and the files"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """The fields that all predictions of one round share."""

    policy_version: int
    taxonomy: str
    """`data.taxonomy`; with `open`, each record's own taxonomy counts."""
    condition: Condition = "av"

    def prediction(self, record: Record, *, text: str = "", failure: str | None = None) -> Prediction:
        return Prediction(
            id=record.prompt_id,
            dataset=record.dataset,
            fold=record.fold,
            label=record.label,
            labels=record.labels,
            taxonomy=record.taxonomy if self.taxonomy == "open" else self.taxonomy,
            text=text,
            video=record.clip.video_path,
            audio=record.clip.audio_path,
            policy_version=self.policy_version,
            condition=self.condition,
            failure=failure,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """The result of one policy on the held-out clips."""

    policy: str
    policy_version: int
    recognition: Recognition
    """WAR and UAR over all clips."""
    war_exact: float
    """Share of clips whose answer is the label to the letter."""
    format_rate: float
    """Share of completions in the paper's form."""
    num_failed: int
    """Clips without an answer."""
    datasets: Mapping[str, Recognition] = field(default_factory=dict[str, Recognition])
    """WAR and UAR by dataset, if there are several."""


async def predict_clips(
    records: Sequence[Record],
    asking: Asking,
    *,
    prepare: PrepareFn,
    generate: GenerateFn,
    max_in_flight: int,
    on_clip: Callable[[int, int], None],
) -> list[Prediction]:
    """Asks every clip once, greedily; `on_clip` gets the number of clips evaluated, and of all clips."""
    room = asyncio.Semaphore(max_in_flight)
    num_done = 0

    async def predict(position: int, record: Record) -> Prediction:
        nonlocal num_done
        async with room:
            answer = await _ask(position, record, prepare=prepare, generate=generate)
        num_done += 1
        on_clip(num_done, len(records))
        if not isinstance(answer, Failure):
            return asking.prediction(record, text=answer)
        reason = f"{answer.stage}/{answer.reason}: {answer.detail}"
        logger.warning("held-out clip %s failed: %s", record.prompt_id, reason)
        return asking.prediction(record, failure=reason)

    return list(await asyncio.gather(*(predict(i, r) for i, r in enumerate(records))))


async def _ask(position: int, record: Record, *, prepare: PrepareFn, generate: GenerateFn) -> str | Failure:
    draw = Draw(epoch=0, record=record, draw=0, position=position)

    async def use(media: MediaRef, num_tokens: int) -> Generation | Failure:
        return await generate(Prompt(draw=draw, media=media, num_prompt_tokens=num_tokens, seed=0))

    generation = await with_clip(functools.partial(prepare, record), use)
    return generation if isinstance(generation, Failure) else generation.completions[0].text


def evaluation_result(predictions: Sequence[Prediction], *, policy: str, policy_version: int) -> EvaluationResult:
    """The result of predictions, as `learner.evaluate` reads them; a clip without an answer counts as wrong."""
    require_some_asked(predictions)
    read, num = read_all(predictions), len(predictions)
    by_dataset: dict[str, list[ReadPrediction]] = {}
    for prediction in read:
        by_dataset.setdefault(prediction.prediction.dataset, []).append(prediction)
    return EvaluationResult(
        policy=policy,
        policy_version=policy_version,
        recognition=_recognition(read),
        war_exact=sum(verbatim_answer(p.text) == verbatim_answer(p.label) for p in predictions) / num,
        format_rate=sum(has_form(p.text) for p in predictions) / num,
        num_failed=sum(p.failure is not None for p in predictions),
        datasets={name: _recognition(part) for name, part in by_dataset.items()} if len(by_dataset) > 1 else {},
    )


def _recognition(read: Sequence[ReadPrediction]) -> Recognition:
    return recognition([p.label for p in read], [p.answer for p in read])


def require_some_asked(predictions: Sequence[Prediction]) -> None:
    """Raises `DatasetError` if no clip has an answer: failures alone say nothing about the policy."""
    failures = Counter(p.failure.split(":")[0] for p in predictions if p.failure is not None)
    if predictions and failures.total() == len(predictions):
        raise DatasetError(only_failures("some held-out clip must be usable", failures, _REMEDIES))


def result_name(policy: str, condition: Condition) -> str:
    return policy if condition == AS_GIVEN else f"{policy}_{condition}"


def result_metrics(result: EvaluationResult) -> dict[str, float]:
    key, recognized = f"eval/{result.policy}", result.recognition
    metrics = {f"{key}/war": recognized.war.value, f"{key}/uar": recognized.uar.value}
    return metrics | {f"{key}/war_exact": result.war_exact, f"{key}/format_rate": result.format_rate}


def validation_metrics(result: EvaluationResult) -> dict[str, float]:
    """WAR and UAR of all clips, and of each dataset if there are several."""
    parts = {"eval/validation": result.recognition}
    parts |= {f"eval/validation/{name}": recognition for name, recognition in result.datasets.items()}
    return {
        f"{key}/{name}": estimate.value
        for key, part in parts.items()
        for name, estimate in (("war", part.war), ("uar", part.uar))
    }


def answers_file(folder: Path, policy: str) -> Path:
    """The file of a policy's predictions, for `read_predictions`."""
    return folder / f"{policy}.jsonl"


def write_result(folder: Path, result: EvaluationResult) -> None:
    """Writes `<policy>.json`, whose presence means that the predictions beside it are whole."""
    folder.mkdir(mode=0o700, exist_ok=True)
    atomic_write_text(folder / f"{result.policy}.json", json.dumps(asdict(result), indent=1) + "\n")


def read_result(folder: Path, policy: str) -> EvaluationResult | None:
    """The result that `write_result` wrote; None without one."""
    path = folder / f"{policy}.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    datasets = {name: _read_recognition(part) for name, part in values.pop("datasets").items()}
    return EvaluationResult(recognition=_read_recognition(values.pop("recognition")), datasets=datasets, **values)


def _read_recognition(values: dict[str, Any]) -> Recognition:
    war, uar = Estimate(**values.pop("war")), Estimate(**values.pop("uar"))
    return Recognition(war=war, uar=uar, **values)
