"""From a clip to the tensors of both planes: nothing depends on padding, everything that matters is hashed."""

import numpy as np
import pytest
from transformers import WhisperFeatureExtractor

from common.models.qwen2_5_omni.processor import (
    encode_completion,
    encode_text,
    hash_tensors,
    load_processor,
    process_prompt,
)
from common.types import DecodedClip, ProcessedPrompt

PIXELS = {"min_pixels": 784, "max_pixels": 12_544}


def frames_of(num_frames: int, *, side: int = 56, seed: int = 0) -> np.ndarray:
    """Noise; 56 is a size that no resizing changes."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, side, side, 3), dtype=np.uint8)


def waveform_of(num_samples: int, *, seed: int = 0) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def process(
    tiny: str,
    *,
    frames: np.ndarray | None = None,
    fps: float = 8.0,
    waveform: np.ndarray | None = None,
    question: str = "How?",
) -> ProcessedPrompt:
    """With the test's limits."""
    clip = DecodedClip(frames=frames, fps=fps if frames is not None else 0.0, waveform=waveform)
    return process_prompt(clip, question, model_path=tiny, **PIXELS)


@pytest.mark.parametrize("num_samples", [401, 16_079, 40_000])
def test_features_are_bit_for_bit_those_of_the_full_padding(tiny: str, num_samples: int) -> None:
    full = WhisperFeatureExtractor(feature_size=128, chunk_length=300)
    waveform = waveform_of(num_samples)
    expected = full(
        waveform, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="np"
    )
    num_frames = int(expected["attention_mask"].sum())
    assert expected["input_features"].shape == (1, 128, 30_000)
    got = process(tiny, waveform=waveform).tensors
    assert int(got["audio_feature_lengths"][0]) == num_frames == -(-num_samples // 160)
    assert np.array_equal(got["input_features"], expected["input_features"][0, :, :num_frames])


@pytest.mark.parametrize("fps", [2.0, 8.0, 12.0, 12.5, 25.0, 29.97])
def test_the_true_frame_rate_reaches_the_tensors(tiny: str, fps: float) -> None:
    value = process(tiny, frames=frames_of(2), fps=fps).tensors["video_second_per_grid"]
    assert value.dtype == np.float32
    # the nearest float32 that is not below: positions are rounded down, and must not lose one
    assert 0 <= float(value[0]) - 2 / fps <= np.spacing(np.float32(2 / fps))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 16, 33])
def test_frames_keep_their_size_however_many_there_are(tiny: str, num_frames: int) -> None:
    prompt = process(tiny, frames=frames_of(num_frames, side=224))
    pairs, height, width = prompt.tensors["video_grid_thw"][0].tolist()
    # 12544 pixels are 112 x 112, 8 x 8 patches; an odd last frame is doubled
    assert (pairs, height, width) == (-(-num_frames // 2), 8, 8)
    assert prompt.placeholders["video"][1] == pairs * 16
    assert prompt.tensors["pixel_values_videos"].shape == (pairs * 64, 3 * 2 * 14 * 14)


def test_small_frames_are_enlarged_to_the_minimum(tiny: str) -> None:
    clip = DecodedClip(frames=frames_of(2, side=20), fps=8.0, waveform=None)
    prompt = process_prompt(clip, "How?", model_path=tiny, min_pixels=3_136, max_pixels=12_544)
    assert prompt.tensors["video_grid_thw"][0].tolist() == [1, 4, 4]


def test_pixels_are_normalised_as_the_checkpoint_says(tiny: str) -> None:
    frames = np.zeros((2, 56, 56, 3), dtype=np.uint8)
    frames[..., 0] = 255
    got = process(tiny, frames=frames).tensors["pixel_values_videos"].reshape(16, 3, 2, 14, 14)
    processor = load_processor(tiny).video_processor
    for channel, level in enumerate((1.0, 0.0, 0.0)):
        expected = (level - processor.image_mean[channel]) / processor.image_std[channel]
        assert got[:, channel].min() == pytest.approx(expected, abs=1e-5)
        assert got[:, channel].max() == pytest.approx(expected, abs=1e-5)


def test_placeholders_lie_where_their_tokens_are(tiny: str) -> None:
    prompt = process(tiny, frames=frames_of(4), waveform=waveform_of(16_000))
    tokenizer = load_processor(tiny).tokenizer
    for modality, token in (("video", "<|VIDEO|>"), ("audio", "<|AUDIO|>")):
        start, length = prompt.placeholders[modality]  # pyright: ignore[reportArgumentType]
        wanted = tokenizer.convert_tokens_to_ids(token)
        where = [i for i, t in enumerate(prompt.prompt_token_ids) if t == wanted]
        assert where == list(range(start, start + length))
    # a second of sound is 100 mel frames and 25 tokens
    assert prompt.placeholders["audio"][1] == 25
    assert prompt.placeholders["video"][0] < prompt.placeholders["audio"][0]


def test_a_text_prompt_has_nothing_but_ids(tiny: str) -> None:
    prompt = process(tiny)
    assert prompt.tensors == {}
    assert prompt.placeholders == {}
    assert load_processor(tiny).tokenizer.decode(prompt.prompt_token_ids).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "token", ["<|VIDEO|>", "<|AUDIO|>", "<|IMAGE|>", "<|audio_placeholder|>", "<|video_placeholder|>"]
)
def test_a_placeholder_in_the_question_is_refused(tiny: str, token: str) -> None:
    with pytest.raises(ValueError, match="question must hold no placeholder token"):
        process(tiny, question=f"What is {token}?", frames=frames_of(2), waveform=waveform_of(16_000))


def test_the_same_clip_has_the_same_hash_whatever_is_asked(tiny: str) -> None:
    clip = {"frames": frames_of(3), "waveform": waveform_of(8_000)}
    first = process(tiny, **clip)
    again = process(tiny, **{k: v.copy() for k, v in clip.items()})
    other = process(tiny, question="Why?", **clip)
    assert first.clip_hash == again.clip_hash == other.clip_hash
    assert first.prompt_token_ids == again.prompt_token_ids != other.prompt_token_ids
    assert all(np.array_equal(first.tensors[n], again.tensors[n]) for n in first.tensors)


def test_one_level_of_one_pixel_changes_the_hash(tiny: str) -> None:
    frames = frames_of(3)
    changed = frames.copy()
    changed[2, 30, 40, 1] ^= 1
    assert process(tiny, frames=frames).clip_hash != process(tiny, frames=changed).clip_hash


def test_one_sample_changes_the_hash(tiny: str) -> None:
    waveform = waveform_of(8_000)
    changed = waveform.copy()
    changed[7_999] += 0.05
    assert process(tiny, waveform=waveform).clip_hash != process(tiny, waveform=changed).clip_hash


def test_the_frame_rate_changes_the_hash(tiny: str) -> None:
    frames = frames_of(3)
    assert process(tiny, frames=frames, fps=8.0).clip_hash != process(tiny, frames=frames, fps=10.0).clip_hash


def test_a_modality_changes_the_hash(tiny: str) -> None:
    frames, waveform = frames_of(2), waveform_of(8_000)
    hashes = {
        process(tiny, frames=frames).clip_hash,
        process(tiny, waveform=waveform).clip_hash,
        process(tiny, frames=frames, waveform=waveform).clip_hash,
        process(tiny).clip_hash,
    }
    assert len(hashes) == 4


def test_a_hash_covers_names_shapes_and_types() -> None:
    base = np.arange(6, dtype=np.float32)
    variants = [
        {"a": base},
        {"b": base},
        {"a": base.reshape(2, 3)},
        {"a": base.view(np.int32)},
        {"a": base, "b": base},
    ]
    assert len({hash_tensors(v) for v in variants}) == len(variants)
    assert hash_tensors({"a": base, "b": base + 1}) == hash_tensors({"b": base + 1, "a": base})
    assert hash_tensors({"a": base[::2]}) == hash_tensors({"a": base[::2].copy()})


@pytest.mark.parametrize(
    "text", ["", "<answer>", "<think>A voice\0trembles: \u4f60\u597d.</think>\n<answer>", "a <| b |> c"]
)
def test_a_text_is_encoded_as_an_answer_is_but_for_its_end(tiny: str, text: str) -> None:
    assert encode_text(text, model_path=tiny) == encode_completion(text, model_path=tiny)[:-1]


@pytest.mark.parametrize("token", ["<|VIDEO|>", "<|AUDIO|>", "<|im_end|>"])
def test_a_special_token_that_a_text_spells_is_spelled(tiny: str, token: str) -> None:
    tokenizer = load_processor(tiny).tokenizer
    text = f"{token}{token} voice {token}"
    ids = encode_text(text, model_path=tiny)
    assert tokenizer.convert_tokens_to_ids(token) in tokenizer(text)["input_ids"], "it would be meant"
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(list(ids)) == text
