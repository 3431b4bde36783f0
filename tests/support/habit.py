"""A few seconds of supervised training that give a tiny model the habit of answering in the paper's form.

It learns the form and nothing about emotions: the answer is drawn at random, the clips are noise. Without it
every completion of a random model earns 0 and there is nothing to reinforce.
"""

import random
from pathlib import Path

import numpy as np
import torch

from common.models.qwen2_5_omni.policy import load_policy
from common.models.qwen2_5_omni.processor import load_processor, process_prompt
from common.models.tokens import pack_tokens
from common.types import DecodedClip, ProcessedPrompt

LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
CUES = ("face", "voice", "eyes", "mouth", "words", "brows")


def teach_habit(
    folder: Path, *, question: str, steps: int, seed: int, labels: tuple[str, ...] = LABELS, lr: float = 5e-3
) -> float:
    """Trains a tiny checkpoint in place; returns the last loss per token.

    Args:
        folder: the checkpoint; its weights are replaced.
        question: what every prompt asks.
        steps: optimizer steps of 8 completions.
        seed: of the clips, answers and wording.
        labels: answers, drawn uniformly.
        lr: peak learning rate; falls linearly.
    """
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    rng = random.Random(seed)
    policy = load_policy(str(folder), dtype=torch.float32)
    tokenizer = load_processor(str(folder)).tokenizer
    prompts = [_noise_prompt(folder, question, rng) for _ in range(8)]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=lr, weight_decay=0.0, betas=(0.9, 0.98))
    loss = torch.tensor(float("nan"))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        chosen = rng.sample(prompts, 1)
        texts = [[_answer(rng, labels) for _ in range(8)] for _ in chosen]
        ids = [[[*tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in group] for group in texts]
        batch = pack_tokens(chosen, ids, pad_token_id=tokenizer.pad_token_id)
        logprobs, _ = policy(batch)
        loss = -(logprobs * batch.mask).sum() / batch.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    tensors = {n: p.detach().contiguous() for n, p in policy.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return float(loss.detach())


def _answer(rng: random.Random, labels: tuple[str, ...]) -> str:
    label = rng.choice(labels)
    return (
        f"<think>The {rng.choice(CUES)} and the {rng.choice(CUES)} seem {label}.</think>\n<answer>{label}</answer>"
    )


def _noise_prompt(folder: Path, question: str, rng: random.Random) -> ProcessedPrompt:
    noise = np.random.default_rng(rng.randrange(2**31))
    base = noise.integers(0, 256, 3)
    # few pixels at a low rate: as long in time, and so in rotary positions, as real clips, but cheap
    clip = DecodedClip(
        frames=np.clip(noise.normal(base, 60, (rng.randint(4, 7), 84, 84, 3)), 0, 255).astype(np.uint8),
        fps=2.0,
        waveform=noise.normal(0, 0.1, rng.randint(24_000, 48_000)).astype(np.float32),
    )
    return process_prompt(clip, question, model_path=str(folder), min_pixels=784, max_pixels=50_176)
