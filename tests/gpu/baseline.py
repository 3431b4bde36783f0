"""A step with transformers' own module, which repeats the prompt for every sample."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from common.models.qwen2_5_omni.positions import prompt_positions
from learner.training.batch import TrainGroup
from learner.training.lora import inject_adapters
from tests.gpu.flops import operations, stacks_of, works_of
from tests.gpu.section import Figures, Section, figure
from tests.gpu.step import config_of
from tests.gpu.subjects import engine_of

NUM_GROUPS, NUM_STEPS = 2, 2
GOAL, SHARE_OF_RECKONED, GOAL_MEMORY = 4.0, 0.85, 0.5
SETTINGS = ("learner.beta=0",)


def against_plain(section: Section) -> None:
    """The same groups on both sides: adapters train, gradient checkpointing, no reference."""
    subject = section.subject
    num = min(NUM_GROUPS, subject.num_groups)
    figures: Figures = {}
    results = {"plain": _plain(section, num)}
    seconds = {
        f"plain_{m}_s": figure(f"transformers, {m}", results["plain"][m]["step_s"], "s") for m in ("media", "text")
    }
    section.save("against_plain", "omni-rlvr has not been timed", seconds)
    results["ours"] = _ours(section, num)
    stacks = results["plain"].pop("stacks")
    for media, goal in (("media", GOAL), ("text", None)):
        plain, ours = (results[side][media] for side in ("plain", "ours"))
        works = [works_of(subject, is_shared=is_shared, has_media=media == "media") for is_shared in (False, True)]
        passes = {"decoder": 2, "head": 2, "vision": 1, "audio": 1}
        reckoned = [sum(operations(stacks, w, passes=passes).values()) for w in works]
        expected, ratio = reckoned[0] / reckoned[1], plain["step_s"] / ours["step_s"]
        name = "with video and audio" if media == "media" else "text only"
        figures |= {
            f"plain_{media}_s": figure(f"transformers, {name}: time", plain["step_s"], "s"),
            f"ours_{media}_s": figure(f"omni-rlvr, {name}: time", ours["step_s"], "s"),
            f"reckoned_{media}": figure(f"operations, transformers / omni-rlvr, {name}", expected),
            f"ratio_{media}": figure(
                f"time, transformers / omni-rlvr, {name}",
                ratio,
                at_least=goal or round(SHARE_OF_RECKONED * expected, 2),
            ),
        }
        if section.is_cuda:
            figures |= {
                f"plain_{media}_bytes": figure(
                    f"transformers, {name}: memory without the weights", plain["bytes"], "B"
                ),
                f"ours_{media}_bytes": figure(f"omni-rlvr, {name}: memory without the weights", ours["bytes"], "B"),
                f"memory_{media}": figure(
                    f"memory without the weights, omni-rlvr / transformers, {name}",
                    ours["bytes"] / plain["bytes"],
                    at_most=GOAL_MEMORY,
                ),
            }
        section.save(
            "against_plain",
            f"{subject.describe(num)}; adapters, gradient checkpointing, no reference; transformers with one group "
            "per pass, omni-rlvr with all groups in one pass",
            figures,
        )


def _timed(section: Section, step: Any) -> dict[str, float]:
    with section.peak() as memory:
        seconds = [section.seconds(step) for _ in range(1 + NUM_STEPS)]
    return {"step_s": statistics.median(seconds[1:]), "bytes": memory["peak"] - memory["before"]}


def _ours(section: Section, num: int) -> dict[str, Any]:
    engine = engine_of(config_of(section.subject, *SETTINGS), section.model_path)
    found: dict[str, Any] = {}
    for media in ("media", "text"):
        groups = section.subject.groups(has_media=media == "media", num=num)
        found[media] = _timed(section, partial(engine.train_step, groups))
    engine.close()
    return found


def _plain(section: Section, num: int) -> dict[str, Any]:
    """Its adapters are the same layers'; torch's own AdamW."""
    settings = config_of(section.subject, *SETTINGS).learner
    policy = load_policy(str(section.model_path), dtype=torch.bfloat16).to(section.device)
    assert settings.lora is not None
    inject_adapters(policy, settings.lora, seed=0)
    thinker: Any = policy.thinker
    for tower in (thinker.visual, thinker.audio_tower):
        tower.config._attn_implementation = "sdpa"
    thinker.gradient_checkpointing_enable({"use_reentrant": False})
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=1e-5)
    found: dict[str, Any] = {"stacks": stacks_of(thinker)}
    for media in ("media", "text"):
        groups = section.subject.groups(has_media=media == "media", num=num)
        found[media] = _timed(section, partial(plain_step, policy, optimizer, groups, section.device))
    return found


def plain_step(
    policy: Qwen2_5OmniPolicy, optimizer: torch.optim.Optimizer, groups: Sequence[TrainGroup], device: str
) -> float:
    """GRPO at a ratio of one, a group a pass; returns the loss."""
    total = 0.0
    for group in groups:
        logprobs = plain_logprobs(policy.thinker, group, device)
        advantages = torch.tensor(group.advantages, device=device).unsqueeze(-1)
        loss = -(torch.exp(logprobs - logprobs.detach()) * advantages).mean() / len(groups)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def plain_logprobs(thinker: Any, group: TrainGroup, device: str) -> Tensor:
    """float32 [G, C]: every sample carries the prompt and its media."""
    prompt, rows = group.prompt, len(group.token_ids)
    ids = torch.tensor([[*prompt.prompt_token_ids, *completion] for completion in group.token_ids])
    for modality, token in (("video", thinker.config.video_token_id), ("audio", thinker.config.audio_token_id)):
        if modality in prompt.placeholders:
            start, length = prompt.placeholders[cast(Any, modality)]
            ids[:, start : start + length] = token
    own = prompt_positions(
        prompt,
        positions_per_second=thinker.config.position_id_per_seconds,
        merge_size=thinker.config.vision_config.spatial_merge_size,
    )
    behind = own.max() + 1 + np.arange(len(group.token_ids[0]))
    positions = np.concatenate([own, np.broadcast_to(behind, (3, len(behind)))], axis=1)
    media: dict[str, Tensor] = {}
    if prompt.tensors:
        pixels, grid = prompt.tensors["pixel_values_videos"], prompt.tensors["video_grid_thw"]
        mel = torch.from_numpy(prompt.tensors["input_features"])
        media = {
            "pixel_values_videos": torch.from_numpy(np.tile(pixels, (rows, 1))).to(device, torch.bfloat16),
            "video_grid_thw": torch.from_numpy(np.tile(grid, (rows, 1))).to(device),
            "input_features": mel.expand(rows, -1, -1).to(device, torch.bfloat16),
            "feature_attention_mask": torch.ones(rows, mel.shape[1], dtype=torch.long, device=device),
        }
    ids = ids.to(device)
    output = thinker(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.from_numpy(positions).unsqueeze(1).expand(-1, rows, -1).to(device),
        use_cache=False,
        **media,
    )
    first = len(prompt.prompt_token_ids) - 1
    num = len(group.token_ids[0])
    logprobs = torch.log_softmax(output.logits[:, first : first + num].float(), dim=-1)
    return logprobs.gather(-1, ids[:, first + 1 :].unsqueeze(-1)).squeeze(-1)
