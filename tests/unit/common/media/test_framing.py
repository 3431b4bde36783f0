"""Frames padded to a square, squashed into one, or left alone."""

import numpy as np

from common.media.framing import GREY, framed
from common.types import DecodedClip


def clip_of(height: int, width: int) -> DecodedClip:
    """Three frames of noise that is never grey."""
    frames = np.random.default_rng(0).integers(130, 256, (3, height, width, 3), dtype=np.uint8)
    return DecodedClip(frames=frames, fps=8.0, waveform=np.ones(16, np.float32))


def test_a_padded_frame_is_square_with_the_picture_in_its_middle() -> None:
    clip = clip_of(20, 35)
    found = framed(clip, "pad", max_pixels=10_000)
    assert found.frames is not None
    assert clip.frames is not None
    assert found.frames.shape == (3, 35, 35, 3)
    # 15 rows to share: 7 above, 8 below
    np.testing.assert_array_equal(found.frames[:, 7:27], clip.frames)
    assert set(np.unique(found.frames[:, :7])) == set(np.unique(found.frames[:, 27:])) == {GREY}
    assert found.waveform is clip.waveform
    assert found.fps == clip.fps


def test_a_squashed_frame_is_square_without_borders_and_holds_no_more_pixels_than_allowed() -> None:
    clip = clip_of(20, 60)
    found = framed(clip, "square", max_pixels=1_000)
    assert found.frames is not None
    assert clip.frames is not None
    assert found.frames.shape == (3, 31, 31, 3)
    assert found.frames.dtype == np.uint8
    # a third of the width is a third of the width afterwards
    left = np.zeros((1, 20, 60, 3), np.uint8)
    left[:, :, :20] = 255
    squashed = framed(DecodedClip(frames=left, fps=1.0, waveform=None), "square", max_pixels=30 * 30).frames
    assert squashed is not None
    assert (squashed[0, :, :8] > 250).all()
    assert (squashed[0, :, 12:] < 5).all()


def test_what_is_kept_or_not_seen_is_the_same_clip() -> None:
    clip = clip_of(20, 35)
    assert framed(clip, "keep", max_pixels=100) is clip
    heard = DecodedClip(frames=None, fps=0.0, waveform=np.ones(16, np.float32))
    assert framed(heard, "pad", max_pixels=100) is heard
