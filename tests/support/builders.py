"""Small values of every type that crosses a process, with only what a test cares about spelled out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.evaluation.predictions import Prediction
from common.types import (
    Clip,
    Completion,
    Draw,
    Generation,
    Group,
    MediaRef,
    ProcessedPrompt,
    Prompt,
    Record,
    Sample,
    Score,
    TensorReceipt,
    VersionSpan,
)
from reward.request import RewardRequest


def make_record(prompt_id: str = "clip-0", *, label: str = "happy") -> Record:
    """A labelled clip that no file holds."""
    clip = Clip(clip_id=prompt_id, video_path=f"/data/{prompt_id}.mp4", audio_path=None)
    return Record(prompt_id=prompt_id, clip=clip, question="How?", label=label, dataset="d", split="train")


def make_request(text: str, *, label: str = "happy", record: Record | None = None) -> RewardRequest:
    """What a reward sees of a completion with this text."""
    record = record or make_record(label=label)
    return RewardRequest(completion=text, token_ids=(1, 2), record=record, modalities=("video",))


def make_draw(prompt_id: str = "clip-0", *, epoch: int = 0, draw: int = 0, position: int = 0) -> Draw:
    """One asking of one prompt."""
    return Draw(epoch=epoch, record=make_record(prompt_id), draw=draw, position=position)


def text_prompt(ids: Sequence[int]) -> ProcessedPrompt:
    """A processed prompt without media."""
    return ProcessedPrompt(prompt_token_ids=tuple(ids), tensors={}, placeholders={}, clip_hash="text")


def make_completion(ids: Sequence[int], *, logprob: float = -1.0, text: str = "", version: int = 0) -> Completion:
    """A completion whose every token has the same log-probability."""
    return Completion(
        token_ids=tuple(ids),
        rollout_logprobs=(logprob,) * len(ids),
        text=text,
        finish_reason="stop",
        version_spans=(VersionSpan(version=version, start=0, end=len(ids)),),
    )


def make_generation(num_completions: int = 2, *, version: int = 0, engine: str = "engine-0") -> Generation:
    """Completions of one, two, three, ... tokens."""
    completions = [
        make_completion(range(1, i + 2), text=f"answer {i}", version=version) for i in range(num_completions)
    ]
    return Generation(completions=tuple(completions), submission_version=version, engine=engine)


def make_group(
    rewards: Sequence[float],
    *,
    lengths: Sequence[int] | None = None,
    draw: Draw | None = None,
    first_token: int = 1,
    version: int = 0,
) -> Group:
    """A group with these rewards; tokens count up from `first_token`, so that each is told from the others."""
    lengths = lengths or [1] * len(rewards)
    samples: list[Sample] = []
    for reward, length in zip(rewards, lengths, strict=True):
        ids = range(first_token, first_token + length)
        first_token += length
        completion = make_completion(ids, logprob=-float(ids[0]) / 8, text=f"answer {ids[0]}")
        samples.append(Sample(completion=completion, score=Score(total=reward, breakdown={"accuracy": reward})))
    return Group(
        prompt=Prompt(draw=draw or make_draw(), media=MediaRef(object()), num_prompt_tokens=3, seed=0),
        samples=tuple(samples),
        min_policy_version=version,
        engine="engine-0",
    )


def make_receipt(
    name: str, *, digest: str = "00", shape: tuple[int, ...] = (2, 2), dtype: str = "float32"
) -> TensorReceipt:
    """One tensor as it was sent."""
    return TensorReceipt(name=name, shape=shape, dtype=dtype, digest=digest)


def metrics_line(**changed: float) -> dict[str, float]:
    """A step's metrics as a run writes them; `__` in a name stands for `/`."""
    line = {
        "reward/total/mean": 0.5,
        "learner/is_skipped": 0.0,
        "learner/num_tokens": 100.0,
        "learner/logprob_diff/mean": 1e-6,
        "learner/logprob_diff/max": 1e-5,
        "learner/kl_rollout/mean": 1e-9,
        "publish/version": 1.0,
        "publish/rehearsals": 1.0,
        "publish/canary/tolerance": 1e-4,
        "publish/canary/engine-0/mean": 1e-7,
        "publish/canary/engine-0/max": 3e-7,
        "seconds/rollout": 1.0,
        "seconds/learn": 2.0,
        "seconds/publish": 0.5,
    }
    return line | {name.replace("__", "/"): value for name, value in changed.items()}


def make_prediction(prompt_id: str, *, label: str, answer: str | None, text: str | None = None) -> Prediction:
    """What a policy said of a clip, in the paper's form; None where it could not be asked."""
    said = "" if answer is None else f"<think>Hm.</think><answer>{answer}</answer>"
    return Prediction(
        id=prompt_id,
        dataset="d",
        fold=None,
        label=label,
        taxonomy="r1_omni",
        policy_version=0,
        text=said if text is None else text,
        failure="media/undecodable: broken" if answer is None else None,
    )


def write_stereo_mp4(path: Path, channels: np.ndarray, *, rate: int) -> None:
    """float32 [2, S] as AAC, starting at time 0."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
