"""Answers clips with a checkpoint, on this machine alone: `python -m learner.predict --help`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from common.config.data import DataConfig
from common.config.load import load_config
from common.errors import ConfigError, DatasetError
from common.evaluation.predictions import json_lines
from common.labels import classes_of
from common.models.registry import family_of
from common.prompts.phrasing import question_of
from common.runtime.command import FAILURE, CommandParser, command, say
from common.types import Clip, Failure, Record
from learner.checkpoints.checkpoint import version_of

if TYPE_CHECKING:
    from deploy.commands.predictor import Predictor

PROGRAM = "python -m learner.predict"
PURPOSE = """\
Answers clips with a checkpoint, one after the other, without Ray or vLLM.

  CLIP ...            video files, sound files, folders of either, or lists: JSONL of {"video" and/or "audio"} with
                      paths from the list's folder and, where there are, id, question, dataset, fold, label
  --model DIR         the checkpoint's folder
  --out FILE          JSONL of the answers: text, think, answer, normalised, probabilities by class, modalities; a
                      clip that cannot be used has a failure instead
  --taxonomy NAME     classes of the answers: r1_omni (the default), dfew, mafw, ravdess, ...; open has none
  --question TEXT     the question for every clip; the paper's by default. As in training, the question names a
                      missing picture or sound
  --config FILE       a run's configuration; its limits on clips (data.max_frames, ...) apply
  --max-tokens N      most tokens of an answer; 512 by default
  --dtype NAME        float32 (the default) or bfloat16
  --device NAME       cpu (the default), cuda, cuda:1, ...

Exit code 0 if every clip was answered, 1 if one failed, 2 for a mistake on the command line."""
SOUNDS = frozenset({".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".opus"})
VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".wmv"})
CARRIED = ("dataset", "fold", "label", "labels", "taxonomy")
"""Keys of a list that predictions keep."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRequest:
    """A clip, and the fields of its list that predictions keep."""

    record: Record
    known: dict[str, Any] = field(default_factory=dict[str, Any])


@command
def main(argv: Sequence[str] | None = None) -> int:
    return _predict(_parse(argv))


def clips_of(inputs: Sequence[str], *, question: str | None) -> list[ClipRequest]:
    """The clips of files, folders and lists, in order; `question` is for lists without one.

    Raises:
        DatasetError: a folder has no clips, a list is invalid, or a clip occurs twice.
    """
    requests: dict[str, ClipRequest] = {}
    for entry in inputs:
        path = Path(entry).expanduser()
        for request in _clips_in(path, question=question):
            if requests.setdefault(request.record.prompt_id, request) is not request:
                raise DatasetError(
                    f"each clip must occur once, got {request.record.prompt_id!r} twice; remove one of them"
                )
    return list(requests.values())


def _clips_in(path: Path, *, question: str | None) -> Iterator[ClipRequest]:
    if path.suffix == ".jsonl":
        for place, values in json_lines(path):
            yield _listed(values, place, folder=path.parent, question=question)
        return
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SOUNDS | VIDEOS)
        if not files:
            raise DatasetError(
                f"a folder must hold video or sound files, got none in {str(path)!r}; give their folder"
            )
    for name in map(str, files):
        video = None if Path(name).suffix.lower() in SOUNDS else name
        yield _listed({"id": name, "video": video, "audio": name}, name, folder=Path(), question=question)


def _listed(values: dict[str, Any], place: str, *, folder: Path, question: str | None) -> ClipRequest:
    for name in ("id", "video", "audio", "question", "label", "dataset"):
        if not isinstance(values.get(name, ""), str | None):
            raise DatasetError(f"{place}: {name} must be a text, got {values[name]!r}; correct it")
    video, audio = (cast("str | None", values.get(name)) for name in ("video", "audio"))
    # a video has its own sound, unless the list names another or none
    audio = video if "audio" not in values else audio
    if video is None and audio is None:
        raise DatasetError(f"{place}: a clip must have a video, an audio or both, got neither; give its path")
    name = values.get("id") or video or audio or ""
    clip = Clip(clip_id=name, video_path=video and str(folder / video), audio_path=audio and str(folder / audio))
    record = Record(
        prompt_id=name,
        clip=clip,
        question=question_of(clip, question=values.get("question") or question),
        label=values.get("label") or "",
        dataset=values.get("dataset") or "clips",
        split="predict",
    )
    return ClipRequest(record=record, known={name: values[name] for name in CARRIED if name in values})


def _predict(options: argparse.Namespace) -> int:
    if options.help:
        sys.stdout.write(f"{PROGRAM} --model DIR --out FILE CLIP ...\n\n{PURPOSE}\n")
        return 0
    from common.runtime.screen import Screen, bar, print_end

    classes_of(options.taxonomy)
    family_of(options.model)
    data = load_config(options.config, []).data if options.config else DataConfig()
    clips = clips_of(options.clips, question=options.question)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # torch takes seconds to import: the user's mistakes are reported first
    from deploy.commands.predictor import Predictor

    version = version_of(Path(options.model))
    with Screen(stderr=True).status(f"loading {options.model}"):
        predictor = Predictor(
            options.model,
            data=data,
            taxonomy=options.taxonomy,
            max_tokens=options.max_tokens,
            dtype=options.dtype,
            device=options.device,
        )
    failures: list[str] = []
    with out.open("w", encoding="utf-8") as file, bar(Screen(stderr=True), "clips") as update:
        for done, request in enumerate(clips):
            update(done, len(clips))
            line = predicted(request, predictor, version=version)
            failures += [f"{line['id']}: {line['failure']}"] if "failure" in line else []
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    scored = ("learner.evaluate", "--predictions", str(out), "--taxonomy", options.taxonomy)
    shown = ("json.tool", "--json-lines", str(out))
    # only labelled clips can be scored
    print_end(Screen(), out.parent, ["python", "-m", *(scored if clips[0].record.label else shown)])
    if failures:
        return say(
            f"failed: {len(failures)} of {len(clips)} clips, the first: {failures[0]}; all in {out}", FAILURE
        )
    return 0


def predicted(request: ClipRequest, predictor: "Predictor", *, version: int) -> dict[str, Any]:
    """The JSON line of a clip."""
    record = request.record
    started = time.perf_counter()
    answer = predictor(record)
    line: dict[str, Any] = {
        "id": record.prompt_id,
        **request.known,
        "video": record.clip.video_path,
        "audio": record.clip.audio_path,
        "policy_version": version,
    }
    if isinstance(answer, Failure):
        return {**line, "text": "", "failure": f"{answer.stage}/{answer.reason}: {answer.detail}"}
    return {**line, **asdict(answer), "seconds": round(time.perf_counter() - started, 3)}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("clips", nargs="*")
    for name in ("model", "out", "question", "config"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--taxonomy", default="r1_omni")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-h", "--help", action="store_true")
    options, rest = parser.parse_known_args(argv)
    if options.help:
        return options
    if rest:
        raise ConfigError(f"arguments must be clips and known options, got {' '.join(rest)}; see --help")
    for name in ("model", "out"):
        if getattr(options, name) is None:
            raise ConfigError(
                f"--{name} must be given, as in --model DIR --out FILE CLIP ..., got nothing; see --help"
            )
    if not options.clips:
        raise ConfigError("clips must be given, got none; name files, folders or lists")
    if options.max_tokens < 1:
        raise ConfigError(f"--max-tokens must be >= 1, got {options.max_tokens}")
    options.model = str(Path(options.model).expanduser().resolve())
    return options
