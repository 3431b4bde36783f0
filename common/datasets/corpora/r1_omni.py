"""R1-Omni's JSON: a list of `{"video": path, "conversations": [human, gpt]}`.

The human turn states the modalities by `<video>` and `<audio>`; its text is unused, as the paper asks the same
question of every clip. The gpt turn is the label, bare or inside `<answer>`. `audio` may name a separate sound
file.
"""

import json
from pathlib import Path
from typing import Any, cast

from common.config.questions import QUESTION
from common.datasets.corpus import require_unique
from common.datasets.files.tables import read_text, resolved
from common.errors import DatasetError
from common.labels import answered
from common.types import Clip, Record


def load_r1_omni(
    path: str | Path, *, media_root: str | Path | None, question: str | None, split: str
) -> list[Record]:
    """Reads a JSON file in R1-Omni's form. Paths of clips start from `media_root`, or from the file's folder, and
    become absolute.

    Raises:
        DatasetError: the file is missing, malformed or empty, or an id is repeated.
    """
    # links stay: a hub's cache keeps the files outside of the folder that shows them
    source = resolved(path)
    root = Path(media_root).expanduser().resolve() if media_root else source.parent
    records = [
        _record(item, index, root=root, question=question or QUESTION, source=source, split=split)
        for index, item in enumerate(_read(source))
    ]
    require_unique((str(source), record.prompt_id) for record in records)
    return records


def _read(source: Path) -> list[Any]:
    text = read_text(source)
    try:
        items: Any = json.loads(text) if text.strip() else None
    except ValueError as error:
        raise DatasetError(f"a corpus must be JSON, got {str(source)!r}: {error}; correct the file") from error
    if isinstance(items, list) and items:
        return cast(list[Any], items)
    content = "an empty list" if isinstance(items, list) else f"a {type(items).__name__}"
    raise DatasetError(
        f"a corpus must hold a list of records, got {content if text.strip() else 'an empty file'} in "
        f'{str(source)!r}; write [{{"video", "conversations": [human, gpt]}}, ...]'
    )


def _record(item: Any, index: int, *, root: Path, question: str, source: Path, split: str) -> Record:
    try:
        video = item["video"]
        human, gpt = item["conversations"][0]["value"], item["conversations"][1]["value"]
        if not all(isinstance(text, str) and text for text in (video, human, gpt)):
            raise TypeError
        label = answered(gpt)
    except (KeyError, IndexError, TypeError) as error:
        fault = f"no {error}" if isinstance(error, KeyError) else "fewer than two turns with texts"
        raise DatasetError(
            f'{source}: record {index} must be {{"video", "conversations": [{{"value"}}, {{"value"}}]}}, got '
            f"{fault} in {json.dumps(item, ensure_ascii=False)[:80]}; correct it or take it out"
        ) from error
    if "<video>" not in human and "<audio>" not in human:
        raise DatasetError(
            f"{source}: record {index} must say <video>, <audio> or both in its first turn, got {human[:60]!r}; "
            "add the modalities of the clip"
        )
    if not label:
        raise DatasetError(
            f"{source}: record {index} must have a label, got {gpt[:60]!r}; write it into the second turn"
        )
    sound = item.get("audio", video)
    if not isinstance(sound, str) or not sound:
        raise DatasetError(f"{source}: record {index} must name its audio by a path, got {sound!r}; correct it")
    clip = Clip(
        clip_id=video,
        video_path=str(root / video) if "<video>" in human else None,
        audio_path=str(root / sound) if "<audio>" in human else None,
    )
    return Record(
        prompt_id=video,
        clip=clip,
        question=question,
        label=label,
        dataset=source.stem,
        split=split,
        response=gpt.strip(),
    )
