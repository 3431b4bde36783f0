"""The clips of a run: read from files or written, and every mistake in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.load import load_config
from common.config.questions import QUESTIONS
from common.config.run import OmniConfig
from common.errors import DatasetError
from deploy.checks.preflight import Corpora, check_inputs, load_corpora, missing_clips, with_steps


def item(video: str, label: str) -> dict[str, object]:
    """One record as R1-Omni writes it."""
    return {"video": video, "conversations": [{"value": "<video>\n<audio>\nQ"}, {"value": label}]}


def written(path: Path, *records: tuple[str, str]) -> Path:
    """A corpus of (video, answer)."""
    path.write_text(json.dumps([item(*r) for r in records]))
    return path


def config_of(train: Path, *overrides: str) -> OmniConfig:
    """Over a corpus of files."""
    return load_config(None, [f"--data.source={{type: r1_omni, path: {train}}}", *overrides])


def corpora_of(config: OmniConfig, folder: Path) -> Corpora:
    """Without a screen."""
    return load_corpora(config, folder, on_clip=lambda done, total: None)


def test_each_file_is_read_for_the_stage_that_is_on(tmp_path: Path) -> None:
    train = written(tmp_path / "t.json", ("a.mp4", "sad"), ("b.mp4", "happy"))
    cold = written(tmp_path / "c.json", ("c.mp4", "<think>x</think><answer>fear</answer>"))
    held = written(tmp_path / "h.json", ("d.mp4", "angry"))
    files = [
        f"--data.cold_start={{type: r1_omni, path: {cold}}}",
        f"--data.heldout={{type: r1_omni, path: {held}}}",
    ]
    off = corpora_of(config_of(train, *files), tmp_path)
    assert ([r.label for r in off.train], off.cold_start, off.heldout) == (["sad", "happy"], [], [])
    on = corpora_of(config_of(train, *files, "--sft.steps=1", "--evaluation.policies=[grpo]"), tmp_path)
    assert [(r.label, r.response, r.split) for r in on.cold_start] == [
        ("fear", "<think>x</think><answer>fear</answer>", "cold_start")
    ]
    assert [(r.label, r.response, r.split) for r in on.heldout] == [("angry", "angry", "heldout")]
    assert on.train == off.train
    assert on.sha256 != off.sha256
    written(held, ("d.mp4", "sad"))
    again = corpora_of(config_of(train, *files, "--sft.steps=1", "--evaluation.policies=[grpo]"), tmp_path)
    assert again.sha256 != on.sha256


@pytest.mark.parametrize("place", ["train", "cold_start", "heldout"])
@pytest.mark.parametrize(
    ("text", "part"),
    [
        (json.dumps([item("a.mp4", "sad"), item("a.mp4", "happy")]), "'a.mp4' twice; remove one"),
        (json.dumps([item("a.mp4", "sad"), item("b.mp4", "bored")]), "got 'bored' of 'b.mp4'; correct it"),
        (
            json.dumps([item("a.mp4", "sad"), {"video": "b.mp4"}]),
            'got no \'conversations\' in {"video": "b.mp4"}; ',
        ),
        (json.dumps([{**item("a.mp4", "sad"), "video": ""}]), "got fewer than two turns with texts in"),
        (
            json.dumps([{"video": "a.mp4", "conversations": [{"value": "<video>"}]}]),
            "got fewer than two turns with texts in",
        ),
        (json.dumps([item("a.mp4", " ")]), "record 0 must have a label, got ' '; write it"),
        ("[]", "must hold a list of records, got an empty list"),
        ("", "must hold a list of records, got an empty file"),
        ("{}", "must hold a list of records, got a dict"),
        ("null", "must hold a list of records, got a NoneType"),
        ("[", "must be JSON"),
        (None, "must be a readable file"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_named_before_anything_starts(
    tmp_path: Path, place: str, text: str | None, part: str
) -> None:
    good, bad = written(tmp_path / "good.json", ("x.mp4", "sad")), tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    overrides = ["--sft.steps=1", "--evaluation.policies=[grpo]"]
    overrides += [
        f"--data.{name}={{type: r1_omni, path: {bad if place == name else good}}}"
        for name in ("cold_start", "heldout")
    ]
    config = config_of(bad if place == "train" else good, *overrides)
    for check in (lambda: check_inputs(config), lambda: corpora_of(config, tmp_path)):
        with pytest.raises(DatasetError) as caught:
            check()
        said = str(caught.value)
        assert part in said
        assert "bad.json" in said
        assert "\n" not in said
        assert ";" in said


def test_a_corpus_is_checked_only_for_a_stage_that_is_on(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("")
    train = written(tmp_path / "t.json", ("a.mp4", "sad"))
    files = ["--data.cold_start.path=/no/such.json", "--data.heldout.path=/no/such.json"]
    assert list(check_inputs(config_of(train, *files))) == ["train"]
    with pytest.raises(DatasetError, match=r"'/no/such\.json'"):
        check_inputs(config_of(train, *files, "--sft.steps=1"))


@pytest.mark.parametrize("key", ["data.source", "data.cold_start", "data.heldout"])
def test_a_corpus_without_any_of_its_media_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "good.mp4").write_text("")
    good = written(tmp_path / "good.json", ("good.mp4", "sad"))
    bad = written(tmp_path / "bad.json", ("x.mp4", "sad"), ("y.mp4", "sad"))
    paths = {k: bad if k == key else good for k in ("data.source", "data.cold_start", "data.heldout")}
    overrides = [f"--{k}={{type: r1_omni, path: {path}}}" for k, path in paths.items()]
    config = load_config(None, [*overrides, "--sft.steps=1", "--evaluation.policies=[grpo]"])
    with pytest.raises(DatasetError) as caught:
        check_inputs(config)
    assert str(caught.value) == (
        f"{key} must have its media files, got none of 2 clips, the first: {tmp_path}/x.mp4; "
        f"set {key}.media_root or correct the paths"
    )


def test_media_that_are_missing_are_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "c.mp4"):
        (tmp_path / name).write_text("")
    train = written(tmp_path / "t.json", ("a.mp4", "sad"), ("b.mp4", "sad"), ("c.mp4", "sad"), ("d.mp4", "sad"))
    found = check_inputs(config_of(train))
    assert list(missing_clips(found)) == [f"2 of 4 clips of data.source are missing, the first: {tmp_path}/b.mp4"]
    assert list(missing_clips({"train": replace(found["train"], records=found["train"].records[::2])})) == []


@pytest.mark.parametrize(
    ("taxonomy", "label", "is_known"),
    [
        ("dfew", "fear", True),
        ("dfew", "anxious", False),
        ("r1_omni", "anxious", True),
        ("r1_omni", "bored", False),
        ("open", "bored", True),
    ],
)
def test_a_label_must_be_of_the_taxonomy(tmp_path: Path, taxonomy: str, label: str, is_known: bool) -> None:
    train = written(tmp_path / "t.json", ("a.mp4", label))
    config = config_of(train, f"--data.taxonomy={taxonomy}")
    if is_known:
        assert corpora_of(config, tmp_path).train[0].label == label
        return
    with pytest.raises(DatasetError, match=f"must be in data.taxonomy .*, got '{label}'"):
        corpora_of(config, tmp_path)


def test_a_synthetic_corpus_is_written_once_and_serves_every_stage(tmp_path: Path) -> None:
    source = "{type: synthetic, num_cold_start: 1, num_train: 2, num_validation: 0, num_heldout: 1, seed: 3}"
    config = load_config(None, [f"--data.source={source}"])
    seen: list[tuple[int, int]] = []
    corpora = load_corpora(config, tmp_path, on_clip=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (len(corpora.cold_start), len(corpora.train), len(corpora.heldout)) == (1, 2, 1)
    records = [*corpora.cold_start, *corpora.train, *corpora.heldout]
    assert [r.split for r in records] == ["cold_start", "train", "train", "heldout"]
    paths = [Path(r.clip.video_path or "") for r in records]
    before = [p.stat().st_mtime_ns for p in paths]
    assert load_corpora(config, tmp_path, on_clip=lambda done, total: pytest.fail("written again")) == corpora
    assert [p.stat().st_mtime_ns for p in paths] == before


def test_epochs_become_whole_steps_over_the_clips_that_there_are(tmp_path: Path) -> None:
    train = written(tmp_path / "t.json", *((f"{i}.mp4", "sad") for i in range(10)))
    cold = written(tmp_path / "c.json", *((f"{i}.mp4", "<think>x</think><answer>sad</answer>") for i in range(5)))
    files = (f"--data.cold_start={{type: r1_omni, path: {cold}}}", "--learner.groups_per_step=4")
    epochs = ("--learner.epochs=2.5", "--sft.epochs=5", "--sft.examples_per_step=16")
    config = config_of(train, *files, *epochs)
    found = with_steps(config, corpora_of(config, tmp_path))
    # 25 / 4 and 25 / 16, rounded up
    assert (found.learner.steps, found.sft.steps) == (7, 2)
    plain = config_of(train, *files, "--learner.steps=3", "--sft.steps=1")
    assert with_steps(plain, corpora_of(plain, tmp_path)) == plain


def test_another_stages_question_is_asked_where_told_and_ones_own_before_any(
    tmp_path: Path,
) -> None:
    train = written(tmp_path / "t.json", ("a.mp4", "sad"))
    asked = [
        corpora_of(config_of(train, *overrides), tmp_path).train[0].question
        for overrides in (
            (),
            ("--data.question_of=evaluation",),
            ("--data.question_of=evaluation", "--data.question=Q?"),
        )
    ]
    assert asked == [QUESTIONS["grpo"], QUESTIONS["evaluation"], "Q?"]
