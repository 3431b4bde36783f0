"""vLLM and transformers compute the same: prompt ids, tensors, log-probabilities, greedy tokens."""

import asyncio
from typing import Any

import pytest
import ray
import torch

from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy, load_policy
from common.models.qwen2_5_omni.processor import load_processor
from common.models.tokens import pack_tokens
from common.types import Generation, ProcessedPrompt, SamplingSpec
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import tensor_hash
from tests.support.media.clips import CASES, QUESTION, ClipCase, case_named, decoded, processed

MEAN, MAX = 1e-5, 1e-3
TENSORS_FED = ("pixel_values_videos", "video_grid_thw", "input_features", "audio_feature_lengths")


@pytest.fixture(scope="module")
def policies(untied: str, tied: str) -> dict[str, Qwen2_5OmniPolicy]:
    """transformers' side, float32."""
    return {path: load_policy(path, dtype=torch.float32).eval() for path in (untied, tied)}


def sample(run: Run, engine: EngineClient, prompts: list[ProcessedPrompt], **changes: Any) -> list[Generation]:
    """All prompts in one engine batch."""
    sampling = SamplingSpec(**{"temperature": 1.0, "max_tokens": 24} | changes)
    group_size = 1 if sampling.temperature == 0 else 4

    async def ask() -> list[Generation]:
        return await asyncio.gather(
            *(
                engine.generate(p, sampling=sampling, group_size=group_size, seed=1000 * i, deadline_s=120)
                for i, p in enumerate(prompts)
            )
        )

    answers = run(ask())
    assert all(isinstance(a, Generation) for a in answers), answers
    return answers


def differences(
    policy: Qwen2_5OmniPolicy, prompts: list[ProcessedPrompt], answers: list[Generation], temperature: float = 1.0
) -> torch.Tensor:
    """|engine - learner| of every sampled token."""
    batch = pack_tokens(prompts, [[c.token_ids for c in a.completions] for a in answers], pad_token_id=0)
    with torch.no_grad():
        logprobs, _ = policy(batch, temperature=temperature)
    rollout = torch.zeros_like(logprobs)
    for row, completion in enumerate(c for a in answers for c in a.completions):
        rollout[row, : len(completion.token_ids)] = torch.tensor(completion.rollout_logprobs)
    return (logprobs - rollout).abs()[batch.mask.bool()]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_logprobs_of_sampled_tokens_agree(
    case: ClipCase, kind: str, run: Run, policies: dict[str, Qwen2_5OmniPolicy], request: pytest.FixtureRequest
) -> None:
    engine, path = request.getfixturevalue(f"engine_{kind}"), request.getfixturevalue(kind)
    prompts = [processed(case, path)]
    answers = sample(run, engine, prompts)
    assert len(answers[0].completions) == 4
    found = differences(policies[path], prompts, answers)
    assert found.mean() < MEAN
    assert found.max() < MAX


def test_logprobs_agree_for_different_clips_in_one_engine_batch(
    run: Run, engine_untied: EngineClient, untied: str, policies: dict[str, Qwen2_5OmniPolicy]
) -> None:
    prompts = [processed(case, untied, seed=seed) for seed, case in enumerate(CASES[:6])]
    answers = sample(run, engine_untied, prompts)
    found = differences(policies[untied], prompts, answers)
    assert found.mean() < MEAN
    assert found.max() < MAX


def test_logprobs_have_the_temperature_applied(
    run: Run, engine_untied: EngineClient, untied: str, policies: dict[str, Qwen2_5OmniPolicy]
) -> None:
    prompts = [processed(case_named("av-8fps-odd-frames"), untied)]
    answers = sample(run, engine_untied, prompts, temperature=1.7)
    assert differences(policies[untied], prompts, answers, temperature=1.7).max() < MAX
    assert differences(policies[untied], prompts, answers, temperature=1.0).max() > 10 * MAX


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_greedy_tokens_are_those_of_transformers_own_generate(
    case: ClipCase, run: Run, engine_untied: EngineClient, untied: str, policies: dict[str, Qwen2_5OmniPolicy]
) -> None:
    prompt = processed(case, untied)
    answer = sample(run, engine_untied, [prompt], temperature=0)[0].completions[0]
    assert list(answer.token_ids) == hf_greedy(policies[untied], prompt, max_tokens=24)


def hf_greedy(policy: Qwen2_5OmniPolicy, prompt: ProcessedPrompt, *, max_tokens: int) -> list[int]:
    """transformers' generate on its own inputs: positions, padding and cache are its own."""
    t = {k: torch.from_numpy(v) for k, v in prompt.tensors.items()}
    ids = torch.tensor([prompt.prompt_token_ids])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "pixel_values_videos" in t:
        inputs |= {k: t[k] for k in ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")}
    if "input_features" in t:
        padded = torch.nn.functional.pad(t["input_features"], (0, 50))
        inputs["input_features"] = padded.unsqueeze(0)
        inputs["feature_attention_mask"] = (torch.arange(padded.shape[1]) < t["audio_feature_lengths"]).long()[None]
    with torch.no_grad():
        policy.thinker.rope_deltas = None
        output = policy.thinker.generate(
            **inputs, max_new_tokens=max_tokens, do_sample=False, eos_token_id=2, pad_token_id=0
        )
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "text-only"], ids=lambda c: c.name)
def test_tensors_that_reach_the_engines_towers_are_the_learners(
    case: ClipCase, run: Run, engine_untied: EngineClient, untied: str
) -> None:
    prompt = processed(case, untied, seed=77)
    ray.get(engine_untied.handle.call_workers.remote("record_media"))
    sample(run, engine_untied, [prompt])
    seen = set(ray.get(engine_untied.handle.call_workers.remote("recorded_media"))[0])
    expected = {tensor_hash(torch.from_numpy(prompt.tensors[k])) for k in TENSORS_FED if k in prompt.tensors}
    assert expected
    assert expected <= seen


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_prompt_is_what_vllms_own_processor_makes_of_the_clip(case: ClipCase, untied: str) -> None:
    clip = decoded(case)
    own = vllm_processed(untied, clip)
    ours = processed(case, untied)
    assert list(ours.prompt_token_ids) == own["prompt_token_ids"]
    items = {m: i[0].get_data() for m, i in own.get("mm_kwargs", {}).items()}
    pairs = {
        "pixel_values_videos": ("video", "pixel_values_videos"),
        "video_grid_thw": ("video", "video_grid_thw"),
        "video_second_per_grid": ("video", "second_per_grid_ts"),
        "input_features": ("audio", "input_audio_features"),
        "audio_feature_lengths": ("audio", "audio_feature_lengths"),
    }
    for name, (modality, theirs) in pairs.items():
        if name in ours.tensors:
            assert theirs in items[modality], sorted(items[modality])
            assert tensor_hash(torch.from_numpy(ours.tensors[name])) == tensor_hash(
                items[modality][theirs].to(torch.from_numpy(ours.tensors[name]).dtype)
            ), name


def vllm_processed(model_path: str, clip: Any) -> Any:
    """vLLM's own multimodal processor on the raw clip."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    from common.models.qwen2_5_omni.template import render_prompt

    config = ModelConfig(model_path, dtype="float32", limit_mm_per_prompt={"video": 1, "audio": 1, "image": 0})
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    modalities = [m for m, v in (("video", clip.frames), ("audio", clip.waveform)) if v is not None]
    data: dict[str, Any] = {}
    if clip.frames is not None:
        data["video"] = [clip.frames]
    if clip.waveform is not None:
        data["audio"] = [(clip.waveform, 16_000)]
    text = render_prompt(QUESTION, modalities=modalities)
    if not data:
        return {"prompt_token_ids": load_processor(model_path).tokenizer(text)["input_ids"]}
    kwargs = {
        "fps": clip.fps,
        "do_sample_frames": False,
        "cap_pixels_per_frame": False,
        "size": {"shortest_edge": 784, "longest_edge": 12_544},
    }
    items = processor.info.parse_mm_data(data)
    return processor(text, mm_items=items, hf_processor_mm_kwargs=kwargs if clip.frames is not None else {})


def test_a_wrong_frame_rate_breaks_parity(
    run: Run, engine_untied: EngineClient, untied: str, policies: dict[str, Qwen2_5OmniPolicy]
) -> None:
    """The checks above would see a rate that reached only one side."""
    case = case_named("av-12fps")
    prompts = [processed(case, untied)]
    answers = sample(run, engine_untied, prompts)
    wrong = processed(ClipCase(name="", num_frames=24, fps=2.0, seconds=2.0), untied)
    assert wrong.prompt_token_ids == prompts[0].prompt_token_ids
    assert differences(policies[untied], [wrong], answers).max() > 10 * MAX
