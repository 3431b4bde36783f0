"""The gain of a modality: its formula, with log-probabilities that a test knows."""

import asyncio
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.errors import ConfigError, ScoringError
from common.types import Condition, Record
from reward.builtin import BUILTIN
from reward.builtin.modality_gain import ModalityGainReward
from reward.request import RewardResult
from tests.support.reward.requests import make_request


@dataclass
class KnownLogprobs:
    """A `ScoreLogprobsFn` that answers by condition, and remembers what it was asked."""

    answers: Mapping[Condition, float]
    asked: list[tuple[Condition, str, str]] = field(default_factory=list[tuple[Condition, str, str]])

    async def __call__(self, record: Record, *, condition: Condition, prefix: str, text: str) -> float:
        self.asked.append((condition, prefix, text))
        return self.answers[condition]


def gain(
    completion: str, *, gap: float, modalities: Any = ("video", "audio"), label: str = "happy", **options: Any
) -> RewardResult:
    """The reward where the clip as it is makes the label `gap` nats likelier."""
    reward = ModalityGainReward(**options)
    known = KnownLogprobs({"av": -1.0, reward.without: -1.0 - gap})
    request = make_request(completion, label=label, modalities=modalities)
    return asyncio.run(reward.bind(known)(request))


HEARD = "<think>His voice is loud, his brows knit.</think><answer>happy</answer>"
HALF_HEARD = "<think>A voice; his brows and lips.</think><answer>sad</answer>"


@pytest.mark.parametrize(
    ("completion", "gap", "options", "value"),
    [
        (HEARD, 0.0, {}, 0.5),
        (HEARD, 2.0, {}, 1 / (1 + math.exp(-2))),
        (HEARD, 2.0, {"scale": 4.0}, 1 / (1 + math.exp(-0.5))),
        (HALF_HEARD, 2.0, {}, 0.5 / (1 + math.exp(-2))),
        (HALF_HEARD, 2.0, {"needed": 1}, 1 / (1 + math.exp(-2))),
        (HALF_HEARD, 0.0, {"without": "video_blanked"}, 0.5),
        (HEARD, 0.0, {"without": "video_blanked"}, 0.25),
        (HEARD, 0.0, {"without": "audio_swapped", "needed": 4}, 0.25),
        ("no tags", 2.0, {}, 0.0),
        (HEARD, 0.5, {"form": "clip"}, 0.5),
        (HEARD, 3.0, {"form": "clip"}, 1.0),
        (HEARD, -3.0, {"form": "clip"}, 0.0),
        (HEARD, 3.0, {"form": "clip", "scale": 4.0}, 0.75),
        (HEARD, 0.0, {"anchor": "accuracy"}, 0.5),
        (HALF_HEARD, 0.0, {"anchor": "accuracy"}, 0.0),
        (HEARD, 1e9, {}, 1.0),
        (HEARD, -1e9, {}, 0.0),
    ],
)
def test_a_gain_is_the_anchor_times_a_factor_of_the_gap(
    completion: str, gap: float, options: dict[str, Any], value: float
) -> None:
    got = gain(completion, gap=gap, **options)
    assert got.value == pytest.approx(value)
    assert got.facts is not None
    assert got.facts["gap"] == pytest.approx(gap)


def test_the_engines_are_asked_for_the_label_with_and_without() -> None:
    known = KnownLogprobs({"av": -1.0, "video_blanked": -2.0})
    request = make_request(HEARD, label="Happiness")
    asyncio.run(ModalityGainReward(without="video_blanked").bind(known)(request))
    text = "happy</answer>"
    assert sorted(known.asked) == [("av", "<answer>", text), ("video_blanked", "<answer>", text)]


def test_the_label_may_stand_behind_the_thought() -> None:
    known = KnownLogprobs({"av": -1.0, "audio_muted": -2.0})
    bound = ModalityGainReward(given="think").bind(known)
    asyncio.run(bound(make_request(HEARD)))
    asyncio.run(bound(make_request("<think>cut off")))
    thought = HEARD.partition("<answer>")[0]
    assert [prefix for _, prefix, _ in known.asked] == [f"{thought}<answer>"] * 2 + ["<think>cut off<answer>"] * 2


@pytest.mark.parametrize("modalities", [("video",), ("audio",), ()])
def test_one_modality_gains_nothing_and_asks_nobody(modalities: Any) -> None:
    known = KnownLogprobs({})
    got = asyncio.run(ModalityGainReward().bind(known)(make_request(HEARD, modalities=modalities)))
    assert got.value is None
    assert known.asked == []


@pytest.mark.parametrize("logprob", [-math.inf, math.nan])
def test_a_log_probability_that_is_not_finite_is_an_error(logprob: float) -> None:
    known = KnownLogprobs({"av": -1.0, "audio_muted": logprob})
    with pytest.raises(ScoringError, match=r"clip-0: the label's log-probability \(audio_muted\) must be finite"):
        asyncio.run(ModalityGainReward().bind(known)(make_request(HEARD)))


def test_without_engines_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="modality_gain must run beside rollout engines, got none"):
        ModalityGainReward()(make_request(HEARD))
    assert [name for name, kind in BUILTIN.items() if getattr(kind, "needs_engines", False)] == ["modality_gain"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"without": "av"}, "must be 'audio_muted', 'audio_swapped' or 'video_blanked', got 'av'"),
        ({"anchor": "format"}, "must be 'evidence' or 'accuracy', got 'format'"),
        ({"given": "answer"}, "must be 'question' or 'think', got 'answer'"),
        ({"form": "linear"}, "must be 'sigmoid' or 'clip', got 'linear'"),
        ({"scale": 0}, r"modality_gain.scale must be greater than 0, got 0"),
        ({"needed": 0}, "needed must be greater than or equal to 1, got 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ModalityGainReward(**options)


# -- what is left of it in a group ------------------------------------------------------------------


def advantages(totals: Sequence[float]) -> list[float]:
    """Centred and divided by the group's deviation."""
    mean, deviation = statistics.fmean(totals), statistics.pstdev(totals)
    return [(total - mean) / deviation for total in totals]


RIGHT_UNHEARD = "<think>His brows.</think><answer>happy</answer>"


@pytest.mark.parametrize(("anchor", "is_kept"), [("evidence", True), ("accuracy", False)])
def test_a_gain_on_evidence_outlives_the_groups_normalisation(anchor: str, *, is_kept: bool) -> None:
    """A flat bonus, or one on what the sum holds already, gives the same advantages for any gap."""
    texts = [HEARD, HALF_HEARD, RIGHT_UNHEARD, HALF_HEARD]
    right = [float("happy</answer>" in text) for text in texts]
    by_gap = {
        gap: advantages(
            [r + (gain(t, gap=gap, anchor=anchor).value or 0.0) for r, t in zip(right, texts, strict=True)]
        )
        for gap in (-3.0, 3.0)
    }
    assert (by_gap[3.0] != pytest.approx(by_gap[-3.0])) is is_kept
    # where the sound matters, who names it stands further above who is right without
    lead = {gap: values[0] - values[2] for gap, values in by_gap.items()}
    assert (lead[3.0] > lead[-3.0] + 0.3) is is_kept
    flat = [advantages([r + r * bonus for r in right]) for bonus in (0.0, 0.3)]
    assert flat[0] == pytest.approx(flat[1])
