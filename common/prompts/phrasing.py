"""The question for a clip: it names the tracks that are present and may quote the transcript."""

from collections.abc import Mapping

from common.config.questions import QUESTION
from common.types import Clip

VIDEO_QUESTION = QUESTION.replace("throughout the video,", "throughout the video, which has no sound,")
AUDIO_QUESTION = QUESTION.replace(
    "throughout the video,", "throughout the recording, which has no picture,"
).replace("conveyed by the characters", "conveyed by the voices")
VIDEO_ALONE = "\nThe clip has no sound."
AUDIO_ALONE = "\nThe clip has no picture."
_PAPERS: Mapping[str, str] = {"av": QUESTION, "v": VIDEO_QUESTION, "a": AUDIO_QUESTION}


def question_of(clip: Clip, *, question: str | None, transcript: str | None = None) -> str:
    """The full question for a clip, which states the missing modality; `question` None is the paper's."""
    has_video, has_audio = clip.video_path is not None, clip.audio_path is not None
    if question is None:
        full_question = _PAPERS["av" if has_video == has_audio else "v" if has_video else "a"]
    else:
        full_question = question + ("" if has_video == has_audio else VIDEO_ALONE if has_video else AUDIO_ALONE)
    return full_question if transcript is None else f"What is said: {transcript}\n{full_question}"


def base_question(question: str, *, clip: Clip, transcript: str | None) -> str | None:
    """The `question` of `question_of`, from its result."""
    base = question.removeprefix(f"What is said: {transcript}\n") if transcript is not None else question
    if base in _PAPERS.values():
        return None
    if clip.audio_path is None:
        return base.removesuffix(VIDEO_ALONE)
    return base.removesuffix(AUDIO_ALONE) if clip.video_path is None else base
