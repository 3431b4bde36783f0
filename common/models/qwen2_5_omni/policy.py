"""The learner's side of Qwen2.5-Omni: per-token log-probabilities of completions, with gradients."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from common.errors import ModelError
from common.models.limits import MAX_LOGITS
from common.models.qwen2_5_omni.positions import prompt_positions
from common.models.qwen2_5_omni.recompute import Stretch, decode, recompute_towers
from common.models.qwen2_5_omni.windows import attend_by_length
from common.models.token_logprobs import token_logprobs
from common.models.tokens import TokenBatch
from common.types import Modality

DUMMY_MEL_FRAMES = 8


class Qwen2_5OmniPolicy(nn.Module):
    """The thinker, its towers and its head; parameters are named as in the checkpoint (`thinker.…`).

    A clip passes through the towers once, and a prompt through the decoder once, for all completions of it.
    """

    def __init__(self, thinker: Any) -> None:
        super().__init__()
        self.thinker = thinker
        self.config: Any = thinker.config
        self.max_logits = MAX_LOGITS
        self._recomputes = False

    def recompute_layers(self) -> None:
        """Turns gradient checkpointing on, which saves memory at the cost of a second forward."""
        recompute_towers(self.thinker)
        self._recomputes = True

    def forward(self, batch: TokenBatch, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the tokens of N completions, with logits divided by the sampler's temperature.

        Returns:
            Log-probabilities float32 [N, C], and entropy float32 [N, C] without gradient. Mask the values past a
            completion's end: they are those of padding.
        """
        return token_logprobs(
            self.thinker.lm_head,
            self._hidden_states(batch),
            batch.targets,
            temperature=temperature,
            max_logits=self.max_logits,
        )

    def _hidden_states(self, batch: TokenBatch) -> Tensor:
        """Final hidden states that predict each completion token: [N, C, hidden]."""
        if self.thinker.is_gradient_checkpointing:
            raise ModelError(
                "a policy must recompute its layers with recompute_layers, got transformers' gradient "
                "checkpointing, which drops the prompt; switch learner.gradient_checkpointing on instead"
            )
        owner, last = batch.prompt_of_row, batch.prompt_mask.sum(dim=1) - 1
        positions = self._prompt_positions(batch)
        embed = self.thinker.model.embed_tokens
        prompt_embeds = self._with_media(embed(batch.prompt_ids), batch)
        prompts = Stretch(embeds=prompt_embeds, attention_mask=batch.prompt_mask, position_ids=positions)
        # at least one, even if it predicts nothing: ranks must call the same modules equally often
        num_inputs = max(batch.targets.shape[1] - 1, 1)
        inputs, inputs_mask = batch.targets[:, :num_inputs], batch.mask[:, :num_inputs].long()
        steps = torch.arange(num_inputs, device=inputs.device)
        start = positions.amax(dim=(0, 2)) + 1
        rest = Stretch(
            embeds=embed(inputs),
            attention_mask=torch.cat([batch.prompt_mask[owner], inputs_mask], dim=1),
            position_ids=(start[owner].unsqueeze(-1) + steps).expand(3, -1, -1),
        )
        output, rest_output = self._decode(prompts, rest, owner)
        first = output[torch.arange(len(output), device=output.device), last][owner].unsqueeze(1)
        return torch.cat([first, rest_output], dim=1)[:, : batch.targets.shape[1]]

    def _decode(self, prompts: Stretch, rest: Stretch, owner: Tensor) -> tuple[Tensor, Tensor]:
        model = self.thinker.model
        if self._recomputes and self.training and torch.is_grad_enabled():
            return decode(model, prompts, rest, owner)
        cache = DynamicCache()
        output = _run(model, prompts, cache)
        return output, _run(model, rest, _of_rows(cache, owner))

    def _with_media(self, embeds: Tensor, batch: TokenBatch) -> Tensor:
        """The embeddings with the towers' features in place of the placeholders."""
        # both towers always run, on a dummy input if a modality is absent: under ZeRO-3 all ranks must gather the
        # same parameters in the same order, or they hang
        media: list[tuple[Modality, Tensor]] = [("video", self._video(batch)), ("audio", self._audio(batch))]
        for modality, features in media:
            owners = [i for i, p in enumerate(batch.prompts) if modality in p.placeholders]
            if not owners:
                embeds = embeds + 0.0 * features.sum()
                continue
            rows, columns = list[Tensor](), list[Tensor]()
            for owner in owners:
                start, length = batch.prompts[owner].placeholders[modality]
                rows.append(torch.full((length,), owner))
                columns.append(torch.arange(start, start + length))
            index = (torch.cat(rows).to(embeds.device), torch.cat(columns).to(embeds.device))
            assert len(index[0]) == len(features), f"{modality} features and placeholders must match"
            embeds = embeds.index_put(index, features.to(embeds.dtype))
        return embeds

    def _video(self, batch: TokenBatch) -> Tensor:
        visual = self.thinker.visual
        tensors = [p.tensors for p in batch.prompts if "video" in p.placeholders]
        if tensors:
            pixels = _concatenate([t["pixel_values_videos"] for t in tensors], axis=0)
            grid = _concatenate([t["video_grid_thw"] for t in tensors], axis=0)
        else:
            vision = self.config.vision_config
            merge, patch_area = vision.spatial_merge_size, vision.patch_size * vision.patch_size
            pixels = torch.zeros(merge * merge, vision.in_channels * vision.temporal_patch_size * patch_area)
            grid = torch.tensor([[1, merge, merge]])
        device, dtype = batch.prompt_ids.device, _compute_dtype(self.thinker)
        return visual(pixels.to(device, dtype), grid_thw=grid.to(device)).pooler_output

    def _audio(self, batch: TokenBatch) -> Tensor:
        tower = self.thinker.audio_tower
        tensors = [p.tensors for p in batch.prompts if "audio" in p.placeholders]
        if tensors:
            mel = _concatenate([t["input_features"] for t in tensors], axis=1)
            lengths = _concatenate([t["audio_feature_lengths"] for t in tensors], axis=0)
        else:
            mel = torch.zeros(self.config.audio_config.num_mel_bins, DUMMY_MEL_FRAMES)
            lengths = torch.tensor([DUMMY_MEL_FRAMES])
        device, dtype = batch.prompt_ids.device, _compute_dtype(self.thinker)
        lengths = lengths.to(device)
        after_cnn, _ = tower._get_feat_extract_output_lengths(lengths)
        return tower(mel.to(device, dtype), feature_lens=lengths, aftercnn_lens=after_cnn).last_hidden_state

    def _prompt_positions(self, batch: TokenBatch) -> Tensor:
        # int64 [3, D, P]; padding repeats the last position, so that the maximum is that of the prompt
        num_prompts, length = batch.prompt_ids.shape
        positions = torch.zeros(3, num_prompts, length, dtype=torch.long)
        for row, prompt in enumerate(batch.prompts):
            row_positions = torch.from_numpy(
                prompt_positions(
                    prompt,
                    positions_per_second=self.config.position_id_per_seconds,
                    merge_size=self.config.vision_config.spatial_merge_size,
                )
            )
            positions[:, row, : row_positions.shape[1]] = row_positions
            positions[:, row, row_positions.shape[1] :] = row_positions[:, -1:]
        return positions.to(batch.prompt_ids.device)


def _run(model: Any, stretch: Stretch, cache: DynamicCache) -> Tensor:
    return model(
        inputs_embeds=stretch.embeds,
        attention_mask=stretch.attention_mask,
        position_ids=stretch.position_ids,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


def _of_rows(cache: DynamicCache, owner: Tensor) -> DynamicCache:
    # a copy per row of its prompt's keys and values; gradients flow back to the prompt
    rows = DynamicCache()
    for layer, entry in enumerate(cast(Any, cache).layers):
        rows.update(entry.keys[owner], entry.values[owner], layer)
    return rows


def load_policy(model_path: str, *, dtype: torch.dtype) -> Qwen2_5OmniPolicy:
    """Loads the thinker of a checkpoint, without remote code; raises `ModelError` if a tensor is missing."""
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    loaded = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        model_path, dtype=dtype, output_loading_info=True, trust_remote_code=False
    )
    thinker, report = cast(tuple[Any, dict[str, Any]], loaded)
    if report["missing_keys"]:
        raise ModelError(
            f"model.path must hold every weight of the thinker, got {Path(model_path)} without "
            f"{sorted(report['missing_keys'])[:3]}; fetch the checkpoint again"
        )
    attend_by_length(thinker)
    return Qwen2_5OmniPolicy(thinker)


def _concatenate(arrays: list[np.ndarray], *, axis: int) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays, axis=axis))


def _compute_dtype(thinker: Any) -> torch.dtype:
    return thinker.model.norm.weight.dtype
