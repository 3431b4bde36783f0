"""Labels of the synthetic corpus cannot be read from anything but its pictures and sounds.

Two classifiers, each asked about every clip with that clip left out, may be no better than chance: of n clips in 7
classes a guesser gets Binomial(n, 1/7) right, and more than the largest count that it passes with a probability of
1e-4 is a leak. With n = 56 that is 20, or 36 %. So few clips show a strong leak alone; a weak one, such as sizes
that follow how well a clip compresses, is ruled out by the constant rates themselves.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from common.datasets.synthetic.expressions import EMOTIONS
from common.datasets.synthetic.mp4 import AAC_FRAME_BYTES, VIDEO_BITS_PER_S

CHANCE = 1 / len(EMOTIONS)
SIGNIFICANCE = 1e-4


def bound(num_clips: int) -> int:
    """The fewest right answers that chance gives with less than the significance."""

    def tail(k: int) -> float:
        return sum(
            math.comb(num_clips, i) * CHANCE**i * (1 - CHANCE) ** (num_clips - i) for i in range(k, num_clips + 1)
        )

    return next(k for k in range(num_clips + 2) if tail(k) < SIGNIFICANCE)


def container_facts(path: Path) -> dict[str, float]:
    """What a file says without being decoded."""
    with av.open(str(path)) as container:
        (video,), (audio,) = container.streams.video, container.streams.audio
        packets = {
            s.type: [p.size for p in container.demux(s) if p.size] for s in (video, audio) if not container.seek(0)
        }
        facts = {
            "duration": float(container.duration or 0),
            "bit_rate": float(container.bit_rate),
            "fps": float(video.average_rate or 0),
            "video_bit_rate": float(video.bit_rate or 0),
            "audio_bit_rate": float(audio.bit_rate or 0),
            "audio_start": float(audio.start_time or 0),
        }
    for kind, sizes in packets.items():
        facts |= {
            f"{kind}_packets": float(len(sizes)),
            f"{kind}_bytes": float(sum(sizes)),
            f"{kind}_bytes_per_packet": sum(sizes) / len(sizes),
            f"{kind}_largest_packet": float(max(sizes)),
        }
    return facts


@pytest.fixture(scope="module")
def clips(corpus: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Of a small corpus."""
    return facts_of(corpus)


def facts_of(corpus: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By name what is known of each training clip beside its content, and the classes."""
    recipes = {r["clip_id"]: r for r in map(json.loads, (corpus / "metadata.jsonl").read_text().splitlines())}
    records = json.loads((corpus / "train.json").read_text())
    rows: list[dict[str, float]] = []
    for order, record in enumerate(records):
        path = corpus / record["video"]
        digits = {f"name_{i}": float(int(digit, 16)) for i, digit in enumerate(path.stem)}
        recipe = recipes[record["video"]]
        known = {"order": float(order), "order_mod_7": float(order % 7), "size": float(path.stat().st_size)}
        known |= {"seed": float(recipe["seed"]), "identity": float(recipe["identity"])}
        rows.append({**digits, **known, **container_facts(path)})
    labels = np.array([EMOTIONS.index(r["conversations"][1]["value"]) for r in records])
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, labels


def standardized(columns: list[np.ndarray]) -> np.ndarray:
    """float64 [n, columns], of mean 0 and deviation 1; a constant is 0."""
    values = np.stack(columns, axis=1)
    deviation = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)


def centroid_hits(features: np.ndarray, labels: np.ndarray) -> int:
    """Clips whose nearest class mean, made without them, is that of their class."""
    hits = 0
    for i, row in enumerate(features):
        rest = np.arange(len(labels)) != i
        means = np.stack([features[rest & (labels == c)].mean(axis=0) for c in range(len(EMOTIONS))])
        hits += int(np.argmin(((means - row) ** 2).sum(axis=1)) == labels[i])
    return hits


def ridge_hits(features: np.ndarray, labels: np.ndarray, *, strength: float = 3.0) -> int:
    """Clips whose class a linear classifier finds, fitted without them."""
    design = np.concatenate([features, np.ones((len(labels), 1))], axis=1)
    targets = np.eye(len(EMOTIONS))[labels]
    hits = 0
    for i, row in enumerate(design):
        rest = np.arange(len(labels)) != i
        gram = design[rest].T @ design[rest] + strength * np.eye(design.shape[1])
        weights = np.linalg.solve(gram, design[rest].T @ targets[rest])
        hits += int(np.argmax(row @ weights) == labels[i])
    return hits


def test_the_bound_is_that_of_the_docstring() -> None:
    assert bound(56) == 20
    assert bound(7) == 6


def test_everything_about_the_files_together_is_at_chance(clips: tuple[dict[str, np.ndarray], np.ndarray]) -> None:
    facts, labels = clips
    features = standardized(list(facts.values()))
    assert features.shape == (56, len(facts))
    assert np.bincount(labels).tolist() == [8] * 7
    assert centroid_hits(features, labels) < bound(56)
    assert ridge_hits(features, labels) < bound(56)


def test_every_fact_alone_is_at_chance(clips: tuple[dict[str, np.ndarray], np.ndarray]) -> None:
    facts, labels = clips
    hits = {name: centroid_hits(standardized([column]), labels) for name, column in facts.items()}
    assert {name: count for name, count in hits.items() if count >= bound(56)} == {}


def test_both_tracks_have_constant_rates(clips: tuple[dict[str, np.ndarray], np.ndarray]) -> None:
    facts, _ = clips
    # no packet of sound differs from another
    assert set(facts["audio_bytes_per_packet"]) == set(facts["audio_largest_packet"]) == {AAC_FRAME_BYTES}
    rates = 8 * facts["video_bytes_per_packet"] * facts["fps"] / VIDEO_BITS_PER_S
    # 0.5 % above for the container's part of each packet, and what the last packet fills up
    assert 0.99 < rates.min() <= rates.max() < 1.06
    assert float(np.median(rates)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("classify", [centroid_hits, ridge_hits])
def test_a_leak_would_be_found(
    clips: tuple[dict[str, np.ndarray], np.ndarray], classify: Callable[[np.ndarray, np.ndarray], int]
) -> None:
    # sizes that follow the class a little, as they would without a constant rate
    facts, labels = clips
    angle = 2 * math.pi * labels / len(EMOTIONS)
    noise = [facts[name] / facts[name].std() for name in ("size", "seed")]
    features = standardized([noise[0] + 3 * np.cos(angle), noise[1] + 3 * np.sin(angle)])
    assert classify(features, labels) >= bound(56)
