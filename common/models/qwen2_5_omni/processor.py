"""Turns a decoded clip into tensors; the engine and the learner consume the same arrays."""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import blake3
import numpy as np

from common.errors import MediaError
from common.media.decode import SAMPLE_RATE
from common.models.qwen2_5_omni.template import render_prompt
from common.types import DecodedClip, Modality, ProcessedPrompt

INTERNAL_PLACEHOLDERS = ("<|audio_placeholder|>", "<|image_placeholder|>", "<|video_placeholder|>")
"""Placeholders that the processor writes and replaces while it expands a prompt."""
# more silence after the waveform than the extractor's window of 400: its last frame sees zeros, not a mirror image,
# and the features equal those of the full 300-second padding bit for bit
MEL_GUARD_SAMPLES = 1_600


@functools.lru_cache(maxsize=4)
def load_processor(model_path: str) -> Any:
    from transformers import Qwen2_5OmniProcessor

    return Qwen2_5OmniProcessor.from_pretrained(model_path, trust_remote_code=False)


def process_prompt(
    clip: DecodedClip, question: str, *, model_path: str, min_pixels: int, max_pixels: int
) -> ProcessedPrompt:
    """Turns a decoded clip and a question into prompt ids and tensors; without a modality, its tensors are absent.

    `min_pixels` and `max_pixels` bound a frame's height x width after resizing.

    Returns:
        Tensors by name: `pixel_values_videos` float32 [patches, 3 x 2 x patch x patch], `video_grid_thw` int64
        [1, 3], `video_second_per_grid` float32 [1] (2 / true fps), `input_features` float32 [mel, frames] without
        padding, `audio_feature_lengths` int64 [1].

    Raises:
        ValueError: the question contains a placeholder token.
        MediaError: `too-short`: the waveform is shorter than a token.
    """
    processor = load_processor(model_path)
    for token in (processor.video_token, processor.audio_token, processor.image_token, *INTERNAL_PLACEHOLDERS):
        if token in question:
            raise ValueError(f"question must hold no placeholder token, got {token!r}")
    modalities: list[Modality] = []
    media: dict[str, Any] = {}
    if clip.frames is not None:
        modalities.append("video")
        media |= {
            "videos": [clip.frames],
            "videos_kwargs": {
                "fps": clip.fps,
                "do_sample_frames": False,
                "cap_pixels_per_frame": False,
                "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
                "use_audio_in_video": False,
            },
        }
    if clip.waveform is not None:
        modalities.append("audio")
        padded = len(clip.waveform) + MEL_GUARD_SAMPLES
        padded += -padded % processor.feature_extractor.hop_length
        media |= {
            "audio": [clip.waveform],
            "audio_kwargs": {
                "sampling_rate": SAMPLE_RATE,
                "max_length": padded,
                "truncation": False,
                "return_attention_mask": True,
            },
        }
    outputs = processor(text=[render_prompt(question, modalities=modalities)], return_tensors="pt", **media)
    ids = tuple(int(i) for i in outputs["input_ids"][0])
    tensors = _tensors(outputs, fps=clip.fps, temporal_patch_size=processor.video_processor.temporal_patch_size)
    pads = {"video": processor.video_token, "audio": processor.audio_token}
    return ProcessedPrompt(
        prompt_token_ids=ids,
        tensors=tensors,
        placeholders={m: _run_of(processor.tokenizer.convert_tokens_to_ids(pads[m]), ids) for m in modalities},
        clip_hash=hash_tensors(tensors),
    )


def encode_completion(text: str, *, model_path: str) -> tuple[int, ...]:
    """Token ids of an answer with its end token."""
    tokenizer = load_processor(model_path).tokenizer
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id))


def encode_text(text: str, *, model_path: str) -> tuple[int, ...]:
    """Token ids of a text alone; special tokens in it are encoded as text."""
    tokenizer = load_processor(model_path).tokenizer
    # with cuts after the first character of each special token, no piece contains one
    cuts = [match.start() + 1 for match in _special(model_path).finditer(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    return tuple(i for piece in pieces for i in tokenizer(piece, add_special_tokens=False)["input_ids"])


@functools.lru_cache(maxsize=4)
def _special(model_path: str) -> re.Pattern[str]:
    tokens = load_processor(model_path).tokenizer.added_tokens_decoder.values()
    names = sorted((str(token.content) for token in tokens if token.special), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def decode_completion(token_ids: Sequence[int], *, model_path: str) -> str:
    return str(load_processor(model_path).tokenizer.decode(list(token_ids), skip_special_tokens=True))


def hash_tensors(tensors: dict[str, np.ndarray]) -> str:
    """A digest of names, shapes, dtypes and bytes: 32 hexadecimal digits."""
    digest = blake3.blake3()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest(length=16)


def _tensors(outputs: Any, *, fps: float, temporal_patch_size: int) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    if "pixel_values_videos" in outputs:
        tensors["pixel_values_videos"] = outputs["pixel_values_videos"].numpy()
        tensors["video_grid_thw"] = outputs["video_grid_thw"].numpy()
        tensors["video_second_per_grid"] = _seconds_per_grid(temporal_patch_size / fps)
    if "input_features" in outputs:
        num_frames = int(outputs["feature_attention_mask"].sum())
        tensors["input_features"] = outputs["input_features"][0, :, :num_frames].contiguous().numpy()
        tensors["audio_feature_lengths"] = np.asarray([num_frames], dtype=np.int64)
    return tensors


def _seconds_per_grid(value: float) -> np.ndarray:
    # float32 [1], rounded up: temporal positions are floored, and rounding down would lose one
    exact = np.asarray([value], dtype=np.float64)
    rounded = exact.astype(np.float32)
    return np.where(rounded < exact, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)


def _run_of(token_id: int, ids: tuple[int, ...]) -> tuple[int, int]:
    length = ids.count(token_id)
    if length == 0:
        raise MediaError("audio must last for at least one token of 40 ms, got less", reason="too-short")
    start = ids.index(token_id)
    assert ids[start : start + length] == (token_id,) * length, "a placeholder run must be contiguous"
    return start, length
