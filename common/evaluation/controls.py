"""The conditions of an evaluation, which show what a policy's answer depends on.

A policy that hears is worse without sound, and worse still with another clip's sound; a policy whose reasoning
helps is worse if it must answer at once. If picture or sound is left out, the question says so as in training.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from typing import get_args

from common.errors import DatasetError
from common.prompts.phrasing import base_question, question_of
from common.types import Clip, Condition, Control, Record

CONTROLS: tuple[Control, ...] = get_args(Control)
NUM_MIXINGS = 8
"""Exchanges that are tried for each sound that is swapped."""
CONDITIONS: tuple[Condition, ...] = ("av", *CONTROLS)
MEANINGS: dict[Condition, str] = {
    "av": "picture and sound, as given",
    "video_only": "the picture without its sound",
    "audio_only": "the sound without its picture",
    "swapped_audio": "the picture with the sound of a clip of another label",
    "no_think": "the answer at once, without thinking",
    "label_list": "as given, with the labels to choose from in the question",
}
THINK = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
"""R1-Omni's instruction, behind its question and behind those made from it."""
NO_THINK = "Output the final emotion in <answer> </answer> tags."


def asked_as(
    records: Sequence[Record], condition: Condition, *, classes: Sequence[str] | None = None, seed: int = 0
) -> list[Record]:
    """The records in a condition, with their ids, labels and order; `classes` are the offers of `label_list`.

    Raises:
        DatasetError: a record lacks the required modality or the paper's request to think, sounds cannot be swapped
            across labels, or `classes` is empty.
    """
    match condition:
        case "av":
            return list(records)
        case "video_only":
            return [video_only(record) for record in records]
        case "audio_only":
            return [audio_only(record) for record in records]
        case "swapped_audio":
            return swapped_audio(records, seed=seed)
        case "no_think":
            return [no_think(record) for record in records]
        case "label_list":
            if not classes:
                raise DatasetError(
                    "the condition label_list must have classes to list, got none; set data.taxonomy to one with "
                    "classes, such as dfew"
                )
            return [label_list(record, classes) for record in records]
        case _:
            raise AssertionError(f"{condition} changes a decoded clip, not a record")


def asked_in_groups(
    records: Sequence[Record], condition: Condition, *, classes: Sequence[str] | None = None, seed: int = 0
) -> list[Record]:
    """`asked_as` for each dataset and fold, within which sounds are swapped."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault((record.dataset, record.fold), []).append(index)
    presented = list(records)
    for members in groups.values():
        changed = asked_as([records[i] for i in members], condition, classes=classes, seed=seed)
        for index, record in zip(members, changed, strict=True):
            presented[index] = record
    return presented


def video_only(record: Record) -> Record:
    """Raises `DatasetError` without a picture."""
    if record.clip.video_path is None:
        raise _lacks(record, "video_only", "a picture")
    return _without(record, dataclasses.replace(record.clip, audio_path=None))


def audio_only(record: Record) -> Record:
    """Raises `DatasetError` without sound."""
    if record.clip.audio_path is None:
        raise _lacks(record, "audio_only", "a sound")
    return _without(record, dataclasses.replace(record.clip, video_path=None, frames_fps=None))


def _without(record: Record, clip: Clip) -> Record:
    """The record with another clip and its question; a transcript that was shown remains."""
    base = base_question(record.question, clip=record.clip, transcript=record.transcript)
    is_shown = record.question == question_of(record.clip, question=base, transcript=record.transcript)
    question = question_of(clip, question=base, transcript=record.transcript if is_shown else None)
    return dataclasses.replace(record, clip=clip, question=question)


def swapped_audio(records: Sequence[Record], *, seed: int = 0) -> list[Record]:
    """Swaps the sounds of records with different labels; every sound is used once.

    Raises:
        DatasetError: a record lacks a modality, or one label has more than half of the records.
    """
    for record in records:
        if record.clip.video_path is None:
            raise _lacks(record, "swapped_audio", "a picture")
        if record.clip.audio_path is None:
            raise _lacks(record, "swapped_audio", "a sound")
    count = Counter(record.label for record in records)
    largest, size = count.most_common(1)[0] if count else ("", 0)
    if 2 * size > len(records):
        raise DatasetError(
            f"the condition swapped_audio must have no label on more than half of the clips, got {largest!r} on "
            f"{size} of {len(records)}; leave the condition out, or balance the clips"
        )
    donors = _donors([record.label for record in records], shift=size, rng=random.Random(seed))
    return [
        dataclasses.replace(
            record, clip=dataclasses.replace(record.clip, audio_path=records[donor].clip.audio_path)
        )
        for record, donor in zip(records, donors, strict=True)
    ]


def _donors(labels: Sequence[str], *, shift: int, rng: random.Random) -> list[int]:
    """A permutation that leaves no position its label, mixed over all labels.

    No label may occur more than `shift` times, which is at most half of the labels.
    """
    # in runs of one label, none longer than the shift: what stands so far on is of another label
    order = sorted(range(len(labels)), key=labels.__getitem__)
    donors = list(range(len(labels)))
    for position, index in enumerate(order):
        donors[index] = order[(position + shift) % len(order)]
    for _ in range(NUM_MIXINGS * len(labels)):
        first, other = rng.randrange(len(labels)), rng.randrange(len(labels))
        if labels[donors[first]] != labels[other] and labels[donors[other]] != labels[first]:
            donors[first], donors[other] = donors[other], donors[first]
    return donors


def no_think(record: Record) -> Record:
    """The question without the request to think; raises `DatasetError` if the request is not R1-Omni's."""
    question = record.question.replace(THINK, NO_THINK)
    if "<think>" in question:
        raise DatasetError(
            f"the condition no_think must find {THINK!r} in a question that asks for thinking, got "
            f"{record.question!r}; leave the condition out, or ask in these words"
        )
    return dataclasses.replace(record, question=question if "<answer>" in question else f"{question}\n{NO_THINK}")


def label_list(record: Record, classes: Sequence[str]) -> Record:
    """The question with the list of labels before its instructions on the answer's form."""
    options = f"Choose one of: {', '.join(classes)}."
    question, behind, form = record.question.partition(f"\n{THINK}")
    return dataclasses.replace(record, question=f"{question}\n{options}{behind}{form}")


def _lacks(record: Record, condition: Condition, what: str) -> DatasetError:
    return DatasetError(
        f"the condition {condition} must have clips with {what}, got {record.prompt_id!r} without; leave the "
        "condition out, or such clips"
    )
