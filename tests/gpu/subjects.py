"""What the check runs: Qwen2.5-Omni in two sizes with random weights, and groups of noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from common.config.load import load_config
from common.config.run import OmniConfig
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from common.types import Modality, ProcessedPrompt
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from tests.support.sparse import released_config

SHIPPED = "deploy/configs/qwen2_5_omni_3b_1gpu.yaml"
PATCH_NUMEL, MEL_BINS = 3 * 2 * 14 * 14, 128


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model and its work."""

    name: str
    grid: tuple[int, int, int]
    """Patches of a clip's video in time, height and width; four make a token."""
    mel_frames: int
    """Hundredths of a second of a clip's sound; four make a token."""
    prompt_tokens: int
    completion_tokens: int
    group_size: int
    num_groups: int
    num_steps: int
    """Steps that are timed, behind one that is not."""

    def group(self, seed: int, *, has_media: bool = True, vocab_size: int = 400) -> TrainGroup:
        """A group of noise; completions all have the same length."""
        random = np.random.default_rng(seed)
        prompt = self.prompt(random, has_media=has_media, vocab_size=vocab_size)
        shape = (self.group_size, self.completion_tokens)
        ids, logprobs = random.integers(20, vocab_size - 30, shape), -9 * random.random(shape) - 0.5
        return TrainGroup(
            prompt=prompt,
            token_ids=tuple(map(tuple, ids.tolist())),
            rollout_logprobs=tuple(map(tuple, logprobs.tolist())),
            advantages=tuple(random.standard_normal(self.group_size).tolist()),
        )

    def prompt(self, random: np.random.Generator, *, has_media: bool, vocab_size: int) -> ProcessedPrompt:
        """A prompt with as many tokens with media as without."""
        ids = random.integers(20, vocab_size - 30, self.prompt_tokens)
        placeholders: dict[Modality, tuple[int, int]] = {}
        tensors: dict[str, np.ndarray] = {}
        if has_media:
            num_patches = int(np.prod(self.grid))
            tensors = {
                "pixel_values_videos": random.standard_normal((num_patches, PATCH_NUMEL), dtype=np.float32),
                "video_grid_thw": np.array([self.grid]),
                "video_second_per_grid": np.array([1.0], dtype=np.float32),
                "input_features": random.standard_normal((MEL_BINS, self.mel_frames), dtype=np.float32),
                "audio_feature_lengths": np.array([self.mel_frames]),
            }
            placeholders["video"] = (8, num_patches // 4)
            # the last of its two convolutions and its pooling halve what they get
            placeholders["audio"] = (16 + num_patches // 4, ((self.mel_frames - 1) // 2 + 1 - 2) // 2 + 1)
            for start, length in placeholders.values():
                assert start + length < self.prompt_tokens, "a prompt must have room for its media"
        return ProcessedPrompt(
            prompt_token_ids=tuple(ids.tolist()), tensors=tensors, placeholders=placeholders, clip_hash="noise"
        )

    def groups(self, *, has_media: bool = True, num: int | None = None, vocab_size: int = 400) -> list[TrainGroup]:
        """The batch of a step."""
        numbers = range(num or self.num_groups)
        return [self.group(i, has_media=has_media, vocab_size=vocab_size) for i in numbers]

    def describe(self, num_groups: int | None = None) -> str:
        """Conditions of a measurement; all groups of a step unless a number is given."""
        return (
            f"{self.name} with random weights; {num_groups or self.num_groups} groups, each with a prompt of "
            f"{self.prompt_tokens} tokens with video and audio and {self.group_size} completions of "
            f"{self.completion_tokens} tokens"
        )


TINY = Subject(
    name="tiny Qwen2.5-Omni",
    grid=(2, 4, 6),
    mel_frames=80,
    prompt_tokens=60,
    completion_tokens=10,
    group_size=4,
    num_groups=2,
    num_steps=1,
)
RELEASED = Subject(
    name="Qwen2.5-Omni-3B",
    grid=(4, 16, 32),
    mel_frames=1200,
    prompt_tokens=900,
    completion_tokens=150,
    group_size=8,
    num_groups=16,
    num_steps=3,
)


def build_released(folder: Path, *, device: str, size: str = "3b") -> None:
    """A checkpoint in the released shape with random weights in bfloat16; made on the device, where it is quick."""
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerForConditionalGeneration

    config = cast(Any, Qwen2_5OmniConfig)(
        thinker_config=released_config(size),
        enable_audio_output=False,
        architectures=["Qwen2_5OmniForConditionalGeneration"],
    )
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
        torch.set_default_dtype(torch.float32)
    folder.mkdir(parents=True)
    tensors = {f"thinker.{name}": t.to("cpu").contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def build_tiny(folder: Path) -> None:
    """The tiny checkpoint that the other tests use too."""
    build_tiny_checkpoint(folder)


def configured(*overrides: str) -> OmniConfig:
    """The shipped configuration of one GPU, with changes."""
    return load_config(SHIPPED, [f"--{override}" for override in overrides])


def engine_of(config: OmniConfig, folder: Path) -> LearnerEngine:
    """One rank; the process has its rendezvous already."""
    return LearnerEngine(
        config=config.learner,
        model_path=str(folder),
        reference_path=None,
        dtype=config.model.dtype,
        pad_token_id=0,
        temperature=1.0,
        max_tokens=config.rollout.sampling.max_tokens,
        seed=0,
    )


def repeated(groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """Each completion as a group of its own, with its prompt again."""
    return [
        TrainGroup(prompt=g.prompt, token_ids=(ids,), rollout_logprobs=(logprobs,), advantages=(advantage,))
        for g in groups
        for ids, logprobs, advantage in zip(g.token_ids, g.rollout_logprobs, g.advantages, strict=True)
    ]
