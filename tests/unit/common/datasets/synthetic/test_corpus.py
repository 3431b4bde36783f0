"""The synthetic corpus: balanced, labelled by one modality or both, held-out people apart, the same for a seed."""

import json
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.config.data import SyntheticDataConfig
from common.datasets.corpora.r1_omni import load_r1_omni
from common.datasets.synthetic.corpus import (
    ClipRecipe,
    corpus_folder,
    corpus_sha256,
    plan_corpus,
    render_voice,
    write_clip,
)
from common.datasets.synthetic.expressions import EMOTIONS, FACES, NEUTRAL, VOICES
from common.datasets.synthetic.face import render_face
from common.labels import DFEW
from common.media.decode import decode_clip

DEFAULT = SyntheticDataConfig(type="synthetic")
PLAN = plan_corpus(DEFAULT)
SIZES = {"cold_start": 84, "train": 560, "validation": 70, "heldout": 280}
PER_CLIP = {"clip_id", "label"}
"""Fields that always differ between two clips of a pair."""


def by_split() -> dict[str, list[ClipRecipe]]:
    """The default corpus."""
    recipes: dict[str, list[ClipRecipe]] = defaultdict(list)
    for recipe in PLAN:
        recipes[recipe.split].append(recipe)
    return recipes


# -- the plan -------------------------------------------------------------------------------------


def test_the_classes_are_those_of_dfew() -> None:
    assert set(EMOTIONS) == set(FACES) == set(VOICES) == set(DFEW)


@pytest.mark.parametrize("split", SIZES)
def test_every_split_has_as_many_clips_of_every_class(split: str) -> None:
    counts = Counter(r.label for r in by_split()[split])
    assert counts == dict.fromkeys(EMOTIONS, SIZES[split] // 7)
    assert counts["fear"] == {"cold_start": 12, "train": 80, "validation": 10, "heldout": 40}[split]


def test_half_of_each_class_has_both_modalities_and_a_quarter_either_alone() -> None:
    counts = Counter((r.label, r.label_from) for r in by_split()["heldout"])
    assert counts == {
        (e, kind): count for e in EMOTIONS for kind, count in (("both", 20), ("voice", 10), ("face", 10))
    }


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(1, 60), st.integers(0, 99))
def test_sizes_of_any_kind_are_kept_and_balanced(num_cold_start: int, num_train: int, seed: int) -> None:
    config = SyntheticDataConfig(
        type="synthetic",
        num_cold_start=num_cold_start,
        num_train=num_train,
        num_validation=0,
        num_heldout=0,
        seed=seed,
    )
    counts = Counter((r.split, r.label) for r in plan_corpus(config))
    for split, size in (("cold_start", num_cold_start), ("train", num_train)):
        of_classes = [counts[split, emotion] for emotion in EMOTIONS]
        assert sum(of_classes) == size
        assert max(of_classes) - min(of_classes) <= 1


def test_the_label_is_what_the_modality_that_is_not_neutral_shows() -> None:
    for recipe in PLAN:
        assert {recipe.face, recipe.voice} <= {recipe.label, NEUTRAL}
        expected = {
            "both": (recipe.label, recipe.label),
            "voice": (NEUTRAL, recipe.label),
            "face": (recipe.label, NEUTRAL),
        }
        assert (recipe.face, recipe.voice) == expected[recipe.label_from]
        assert recipe.transcript in VOICES[recipe.voice].sentences


def test_two_clips_of_a_pair_differ_in_one_modality_alone() -> None:
    pairs: dict[str, list[ClipRecipe]] = defaultdict(list)
    for recipe in PLAN:
        if recipe.pair is not None:
            pairs[recipe.pair].append(recipe)
    kinds = Counter(first.label_from for first, _ in pairs.values())
    assert kinds["voice"] >= 100
    assert kinds["face"] >= 100
    assert kinds["both"] == 0
    for first, other in pairs.values():
        differing = {name for name, value in asdict(first).items() if asdict(other)[name] != value}
        expected = {"voice": {"voice", "transcript"}, "face": {"face"}}[first.label_from]
        assert differing - {"transcript"} == (PER_CLIP | expected) - {"transcript"}
        assert "transcript" not in differing or first.label_from == "voice"
        assert first.label != other.label


def test_nearly_every_clip_of_one_modality_has_a_partner() -> None:
    alone = Counter(r.split for r in PLAN if r.label_from != "both" and r.pair is None)
    assert all(count <= 4 for count in alone.values()), alone


def test_held_out_people_and_voices_are_in_no_other_split() -> None:
    splits = by_split()
    others = [r for split in ("cold_start", "train", "validation") for r in splits[split]]
    assert not {r.identity for r in splits["heldout"]} & {r.identity for r in others}
    assert not {r.speaker for r in splits["heldout"]} & {r.speaker for r in others}
    assert len({r.speaker for r in splits["heldout"]}) == 3
    assert len({r.identity for r in splits["heldout"]}) > 100


def test_names_are_unique_and_say_nothing() -> None:
    names = [r.clip_id for r in PLAN]
    assert len(set(names)) == len(names) == sum(SIZES.values())
    assert all(re.fullmatch(r"clips/[0-9a-f]{10}\.mp4", name) for name in names)


def test_a_seed_is_a_plan_and_another_is_another() -> None:
    assert plan_corpus(DEFAULT) == PLAN
    other = plan_corpus(DEFAULT.model_copy(update={"seed": 1}))
    assert not {r.clip_id for r in other} & {r.clip_id for r in PLAN}
    assert [r.label for r in other] != [r.label for r in PLAN]


def test_a_split_does_not_change_with_the_sizes_of_others() -> None:
    smaller = plan_corpus(DEFAULT.model_copy(update={"num_train": 7, "num_cold_start": 0}))
    assert [r for r in smaller if r.split == "heldout"] == by_split()["heldout"]


def test_another_corpus_has_another_folder(tmp_path: Path) -> None:
    configs = [DEFAULT, DEFAULT.model_copy(update={"seed": 1}), DEFAULT.model_copy(update={"num_train": 7})]
    folders = [corpus_folder(tmp_path, config) for config in configs]
    assert len(set(folders)) == 3
    assert corpus_folder(tmp_path, DEFAULT) == folders[0]
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


# -- what is written ------------------------------------------------------------------------------


def metadata(corpus: Path) -> dict[str, dict[str, Any]]:
    """Recipes as they were written, by clip."""
    lines = [json.loads(line) for line in (corpus / "metadata.jsonl").read_text().splitlines()]
    return {line["clip_id"]: line for line in lines}


def test_a_written_corpus_holds_its_plan_and_nothing_else(corpus: Path) -> None:
    config = SyntheticDataConfig.model_validate(json.loads((corpus / "corpus.json").read_text()))
    assert list(metadata(corpus).values()) == [asdict(r) for r in plan_corpus(config)]
    assert {f"clips/{p.name}" for p in (corpus / "clips").iterdir()} == set(metadata(corpus))
    assert sorted(p.name for p in corpus.iterdir()) == [
        "clips",
        "cold_start.json",
        "corpus.json",
        "heldout.json",
        "metadata.jsonl",
        "train.json",
    ]


def test_the_cold_start_explains_and_the_others_only_label(corpus: Path) -> None:
    recipes = metadata(corpus)
    for split in ("cold_start", "train", "heldout"):
        records = load_r1_omni(corpus / f"{split}.json", media_root=None, question=None, split=split)
        assert {r.label for r in records} <= set(EMOTIONS)
        assert [r.label for r in records] == [recipes[r.prompt_id]["label"] for r in records]
        for record in records:
            recipe = recipes[record.prompt_id]
            assert recipe["split"] == split
            seen, heard = FACES[recipe["face"]].words, VOICES[recipe["voice"]].words
            explained = f"<think>{seen[0].upper()}{seen[1:]}, {heard}.</think>\n<answer>{record.label}</answer>"
            assert record.response == (explained if split == "cold_start" else record.label)


def test_written_clips_decode_to_what_was_planned(corpus: Path) -> None:
    recipes = metadata(corpus)
    for record in load_r1_omni(corpus / "heldout.json", media_root=None, question=None, split="heldout"):
        recipe = recipes[record.prompt_id]
        clip = decode_clip(record.clip, max_fps=60.0, max_frames=1000, max_audio_s=60.0)
        assert clip.frames is not None
        assert clip.waveform is not None
        assert clip.fps == recipe["fps"]
        assert len(clip.frames) == round(recipe["fps"] * recipe["seconds"])
        assert len(clip.waveform) / 16_000 == pytest.approx(recipe["seconds"], abs=0.065)
        # a face that moves and a voice that speaks
        assert float(np.abs(np.diff(clip.frames.astype(int), axis=0)).mean()) > 1
        assert float(np.abs(clip.waveform).max()) > 0.05


def test_a_face_is_drawn_the_same_for_a_seed_and_an_identity() -> None:
    def drawn(emotion: str, identity: int, seed: int) -> np.ndarray:
        return render_face(FACES[emotion], identity=identity, fps=8, num_frames=2, seed=seed)

    first = drawn("sad", 3, 5)
    assert np.array_equal(first, drawn("sad", 3, 5))
    for other in (drawn("fear", 3, 5), drawn("sad", 4, 5), drawn("sad", 3, 6)):
        assert float(np.abs(first.astype(int) - other.astype(int)).mean()) > 1


def test_the_hash_is_of_everything_that_a_run_reads(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    whole = corpus_sha256(corpus)
    assert corpus_sha256(tmp_path / "copy") == whole
    (tmp_path / "copy" / "corpus.json").write_text("{}")
    assert corpus_sha256(tmp_path / "copy") == whole
    clip = next((tmp_path / "copy" / "clips").iterdir())
    for path in (clip, tmp_path / "copy" / "train.json", tmp_path / "copy" / "metadata.jsonl"):
        before = path.read_bytes()
        path.write_bytes(before + b"\0")
        assert corpus_sha256(tmp_path / "copy") != whole
        path.write_bytes(before)
    clip.rename(clip.with_name("0000000000.mp4"))
    assert corpus_sha256(tmp_path / "copy") != whole


def test_a_clip_is_the_same_file_whatever_was_written_before_it(corpus: Path, tmp_path: Path) -> None:
    recipes = [ClipRecipe(**r) for r in list(metadata(corpus).values())[:3]]
    for recipe in reversed(recipes):
        write_clip(tmp_path / "clip.mp4", recipe)
        assert (tmp_path / "clip.mp4").read_bytes() == (corpus / recipe.clip_id).read_bytes()


def test_a_pair_sounds_the_same_where_only_the_face_tells() -> None:
    pairs: dict[str, list[ClipRecipe]] = defaultdict(list)
    for recipe in PLAN:
        if recipe.pair is not None:
            pairs[recipe.pair].append(recipe)
    faces = next(pair for pair in pairs.values() if pair[0].label_from == "face")
    assert np.array_equal(render_voice(faces[0]), render_voice(faces[1]))
    voices = next(pair for pair in pairs.values() if pair[0].label_from == "voice")
    first, other = render_voice(voices[0]), render_voice(voices[1])
    assert first.shape == other.shape
    assert float(np.abs(first - other).max()) > 0.05
