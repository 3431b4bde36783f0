"""The learner's log-probabilities against transformers' own forward, one sample at a time."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from common.errors import ModelError
from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from common.models.tokens import TokenBatch, pack_tokens
from common.types import ProcessedPrompt
from tests.support.media.clips import CASES, ClipCase, processed

TEMPERATURE = 0.7
COMPLETIONS = ([50, 200, 170, 301, 90, 80], [44], [33, 33, 390])


def prompt_of(case: ClipCase, tiny: str) -> ProcessedPrompt:
    """The case as noise of its own."""
    return processed(case, tiny, seed=CASES.index(case), question=f"How does the {case.name} feel?")


def packed(prompts: Sequence[ProcessedPrompt], completions: Sequence[Sequence[Sequence[int]]]) -> TokenBatch:
    """Padded with a token that stands in no completion."""
    return pack_tokens(prompts, completions, pad_token_id=0)


def reference_logits(thinker: Any, prompt: ProcessedPrompt, completion: Sequence[int]) -> Tensor:
    """[C, vocab] of transformers' own forward: its placeholders, its positions, its padding of audio."""
    ids = torch.tensor([[*prompt.prompt_token_ids, *completion]])
    media: dict[str, Tensor] = {}
    if "video" in prompt.placeholders:
        names = ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")
        media |= {name: torch.from_numpy(prompt.tensors[name]) for name in names}
    if "audio" in prompt.placeholders:
        mel = torch.from_numpy(prompt.tensors["input_features"])
        padded = torch.zeros(1, mel.shape[0], mel.shape[1] + 37)
        padded[0, :, : mel.shape[1]] = mel
        attended = (torch.arange(padded.shape[2]) < mel.shape[1]).long().unsqueeze(0)
        media |= {"input_features": padded, "feature_attention_mask": attended}
    output = thinker(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **media)
    first = len(prompt.prompt_token_ids) - 1
    return output.logits[0, first : first + len(completion)]


def reference_logprobs(
    thinker: Any, prompt: ProcessedPrompt, completion: Sequence[int], *, temperature: float = 1.0
) -> list[float]:
    """One token after the other, in float64."""
    with torch.no_grad():
        logits = reference_logits(thinker, prompt, completion).double() / temperature
    return [float(row[t] - torch.logsumexp(row, 0)) for row, t in zip(logits, completion, strict=True)]


def test_logprobs_of_a_mixed_batch_are_those_of_transformers(
    policy: Qwen2_5OmniPolicy, thinker: Any, tiny: str
) -> None:
    prompts = [prompt_of(case, tiny) for case in CASES]
    # one, two and three completions in turn
    groups = [COMPLETIONS[: 1 + i % 3] for i in range(len(CASES))]
    with torch.no_grad():
        logprobs, _ = policy(packed(prompts, groups), temperature=TEMPERATURE)
    row = 0
    for case, prompt, group in zip(CASES, prompts, groups, strict=True):
        for completion in group:
            expected = reference_logprobs(thinker, prompt, completion, temperature=TEMPERATURE)
            assert logprobs[row, : len(completion)].tolist() == pytest.approx(expected, abs=1e-5), case.name
            row += 1


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_logprobs_do_not_depend_on_the_rest_of_the_batch(
    policy: Qwen2_5OmniPolicy, tiny: str, case: ClipCase
) -> None:
    prompt, neighbours = prompt_of(case, tiny), [prompt_of(c, tiny) for c in CASES[1:5]]
    with torch.no_grad():
        alone, _ = policy(packed([prompt], [[COMPLETIONS[1]]]))
        together, _ = policy(packed([*neighbours, prompt], [COMPLETIONS, *[[COMPLETIONS[0]]] * 3, COMPLETIONS]))
    # rows 6, 7, 8 are the case's: the second is the completion that was alone
    assert float(together[7, 0]) == pytest.approx(float(alone[0, 0]), abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(
    policy: Qwen2_5OmniPolicy, thinker: Any, tiny: str, temperature: float
) -> None:
    prompt = prompt_of(CASES[0], tiny)
    with torch.no_grad():
        logprobs, entropy = policy(packed([prompt], [[COMPLETIONS[0]]]), temperature=temperature)
        logits = reference_logits(thinker, prompt, COMPLETIONS[0]).double() / temperature
    expected = reference_logprobs(thinker, prompt, COMPLETIONS[0], temperature=temperature)
    assert logprobs[0].tolist() == pytest.approx(expected, abs=1e-5)
    probabilities = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    by_hand = -(probabilities * probabilities.log()).sum(dim=-1)
    assert entropy[0].tolist() == pytest.approx(by_hand.tolist(), abs=1e-5)


def test_the_frame_rate_and_each_modality_reach_the_answer(policy: Qwen2_5OmniPolicy, tiny: str) -> None:
    base = ClipCase(name="a", num_frames=8, fps=8.0, seconds=1.0)
    others = (
        ClipCase(name="slower", num_frames=8, fps=2.0, seconds=1.0),
        ClipCase(name="silent", num_frames=8, fps=8.0, seconds=0),
        ClipCase(name="blind", num_frames=0, fps=0.0, seconds=1.0),
    )
    prompts = [processed(c, tiny, seed=1) for c in (base, *others)] + [processed(base, tiny, seed=2)]
    with torch.no_grad():
        logprobs, _ = policy(packed(prompts, [[COMPLETIONS[0]]] * 5))
    for other in range(1, 5):
        assert float((logprobs[0] - logprobs[other]).abs().max()) > 1e-3


def test_gradients_are_those_of_transformers(policy: Qwen2_5OmniPolicy, thinker: Any, tiny: str) -> None:
    prompts = [prompt_of(CASES[1], tiny), prompt_of(CASES[8], tiny)]
    groups = [COMPLETIONS[:2], COMPLETIONS[2:]]
    policy.zero_grad()
    batch = packed(prompts, groups)
    logprobs, _ = policy(batch)
    (logprobs * batch.mask).sum().backward()
    thinker.zero_grad()
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            logits = torch.log_softmax(reference_logits(thinker, prompt, completion), dim=-1)
            logits[range(len(completion)), completion].sum().backward()
    expected = dict(thinker.named_parameters())
    for name, parameter in policy.thinker.named_parameters():
        if expected[name].grad is None:
            continue
        scale = float(expected[name].grad.abs().max())
        assert float((parameter.grad - expected[name].grad).abs().max()) <= 1e-4 * scale + 1e-7, name
    policy.zero_grad()
    thinker.zero_grad()


def test_towers_take_part_without_media_and_get_no_gradient(policy: Qwen2_5OmniPolicy, tiny: str) -> None:
    def gradients(case: ClipCase) -> dict[str, float | None]:
        policy.zero_grad()
        logprobs, _ = policy(packed([prompt_of(case, tiny)], [[COMPLETIONS[0]]]))
        logprobs.sum().backward()
        largest = {n: None if p.grad is None else float(p.grad.abs().max()) for n, p in policy.named_parameters()}
        policy.zero_grad()
        return {n: g for n, g in largest.items() if n.startswith(("thinker.visual.", "thinker.audio_tower."))}

    with_media, text_only = gradients(CASES[1]), gradients(CASES[-1])
    # under ZeRO-3 a tower that one rank leaves out hangs the others
    assert [n for n, g in text_only.items() if g is None] == [n for n, g in with_media.items() if g is None]
    assert {g for g in text_only.values() if g is not None} == {0.0}
    assert sum(bool(g) for g in with_media.values()) > 40


def test_parameters_are_named_as_in_the_checkpoint(policy: Qwen2_5OmniPolicy, tiny: str) -> None:
    from safetensors import safe_open

    with safe_open(f"{tiny}/model.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert {n for n, _ in policy.named_parameters()} == names
        for name, parameter in policy.named_parameters():
            assert torch.equal(parameter, file.get_tensor(name)), name


def test_layers_that_recompute_themselves_give_the_same_values_and_gradients(tiny: str) -> None:
    prompts = [prompt_of(CASES[1], tiny), prompt_of(CASES[8], tiny)]
    batch = packed(prompts, [COMPLETIONS[:2], COMPLETIONS[2:]])
    plain, frugal = (load_policy(tiny, dtype=torch.float32).train() for _ in range(2))
    frugal.recompute_layers()
    kept: list[tuple[Tensor, int]] = []
    for policy in (plain, frugal):
        num_saved = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal num_saved
            num_saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            logprobs, _ = policy(batch)
        (logprobs * batch.mask).sum().backward()
        kept.append((logprobs.detach(), num_saved))
    assert torch.allclose(kept[0][0], kept[1][0], rtol=0, atol=1e-6)
    assert kept[1][1] < 0.6 * kept[0][1], "less must be kept for the backward"
    expected = dict(plain.named_parameters())
    for name, parameter in frugal.named_parameters():
        if parameter.grad is None or expected[name].grad is None:
            assert parameter.grad is expected[name].grad, name
            continue
        scale = float(expected[name].grad.abs().max())
        assert float((parameter.grad - expected[name].grad).abs().max()) <= 1e-6 * max(scale, 1.0), name


def test_transformers_own_checkpointing_is_refused(tiny: str) -> None:
    policy = load_policy(tiny, dtype=torch.float32).train()
    policy.thinker.gradient_checkpointing_enable()
    with pytest.raises(ModelError, match=r"recompute_layers, got transformers' gradient checkpointing"):
        policy(packed([prompt_of(CASES[-1], tiny)], [COMPLETIONS[:1]]))
