"""Features of all corpora: lists of files, mixes, transcripts, modalities, dropout, the corpora of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from common.config.corpora import AnyCorpusConfig
from common.config.data import DataConfig
from common.config.load import load_config
from common.config.questions import QUESTION
from common.datasets.corpora.r1_omni_list import sampled
from common.datasets.corpus import Corpus
from common.datasets.dropout import dropout_of
from common.datasets.files.transcripts import spoken
from common.datasets.reader import read_corpus
from common.errors import ConfigError, DatasetError
from common.prompts.phrasing import AUDIO_QUESTION, VIDEO_QUESTION, base_question, question_of
from common.types import Clip, Record
from deploy.checks.preflight import check_inputs, left_out, load_corpora
from learner.loops.stream import PromptStream
from tests.support.media.corpora import put_dfew, put_mafw, put_text

CONFIGS: TypeAdapter[Any] = TypeAdapter(AnyCorpusConfig)


def read(settings: dict[str, object], split: str = "train", **more: Any) -> Corpus:
    """Reads any corpus."""
    return read_corpus(CONFIGS.validate_python(settings), split=split, **more)


def put_json(path: Path, ids: list[str], *, tags: str = "<video>\n<audio>", label: str = "sad") -> Path:
    """R1-Omni's file."""
    items = [{"video": i, "conversations": [{"value": f"{tags}\nQ"}, {"value": label}]} for i in ids]
    return put_text(path, json.dumps(items))


# -- lists of files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "positions"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("first:2", [0, 1]),
        ("end:2", [3, 4]),
        ("first:40%", [0, 1]),
        ("end:41%", [2, 3, 4]),
        ("random:5", [0, 1, 2, 3, 4]),
        ("random:100%", [0, 1, 2, 3, 4]),
    ],
)
def test_a_strategy_by_hand(strategy: str, positions: list[int]) -> None:
    assert sampled(5, strategy, seed="0", place="list") == positions


def test_a_random_strategy_is_seeded() -> None:
    drawn = {tuple(sampled(100, "random:10", seed=str(seed), place="list")) for seed in (0, 0, 1)}
    assert len(drawn) == 2
    assert all(len(set(positions)) == 10 for positions in drawn)
    assert len(sampled(100, "random:7%", seed="0", place="list")) == 7


@pytest.mark.parametrize(
    "strategy", ["some", "first", "first:0", "end:-1", "random:101%", "first:6", "first:1.5", "random:0%"]
)
def test_an_invalid_strategy_is_named(strategy: str) -> None:
    with pytest.raises(DatasetError, match=r"list: sampling_strategy must .*; "):
        sampled(5, strategy, seed="0", place="list")


def test_a_list_of_files(tmp_path: Path) -> None:
    put_json(tmp_path / "a.json", ["1.mp4", "2.mp4", "3.mp4"])
    put_json(tmp_path / "sub" / "b.json", ["4.mp4"], label="happy")
    path = put_text(
        tmp_path / "list.yaml",
        "datasets:\n  - json_path: a.json\n    sampling_strategy: first:2\n  - {json_path: sub/b.json}\n",
    )
    corpus = read({"type": "r1_omni_list", "path": str(path)})
    assert [(r.prompt_id, r.dataset) for r in corpus.records] == [("1.mp4", "a"), ("2.mp4", "a"), ("4.mp4", "b")]
    assert corpus.records[2].clip.video_path == str(tmp_path / "sub" / "4.mp4")
    assert [(d.clip_id, d.reason) for d in corpus.dropped] == [("3.mp4", "not-sampled")]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("datasets: []", "must hold datasets"),
        ("- a.json", "must hold datasets"),
        ("datasets: [{sampling_strategy: all}]", "entry 0 must have a json_path"),
        ("datasets: [{json_path: none.json}]", "none.json"),
        ("datasets: [{json_path: a.json, sampling_strategy: half}]", "entry 0: sampling_strategy must be"),
        ("datasets: [{json_path: a.json}, {json_path: a.json}]", "each clip must occur once, got '1.mp4' twice"),
        ("datasets: [", "a list must be YAML"),
    ],
)
def test_a_list_that_is_wrong_says_where(tmp_path: Path, text: str, part: str) -> None:
    put_json(tmp_path / "a.json", ["1.mp4"])
    path = put_text(tmp_path / "list.yaml", text)
    with pytest.raises(DatasetError) as caught:
        read({"type": "r1_omni_list", "path": str(path)})
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# -- mixes ----------------------------------------------------------------------------------------


def mix_of(tmp_path: Path) -> dict[str, object]:
    """DFEW and MAFW."""
    dfew = put_dfew(tmp_path / "DFEW", train={1: 1, 2: 2, 4: 3}, test={3: 3})
    mafw = put_mafw(tmp_path / "MAFW", train=["00001.mp4 anger"], test=["00002.mp4 anxiety"])
    return {"type": "mix", "sources": [{"type": "dfew", "root": str(dfew)}, {"type": "mafw", "root": str(mafw)}]}


def test_a_mix_keeps_ids_apart_by_corpus(tmp_path: Path) -> None:
    mix = mix_of(tmp_path)
    train, test = read(mix, taxonomy="r1_omni"), read(mix, "heldout", taxonomy="r1_omni")
    assert [(r.prompt_id, r.label) for r in train.records] == [
        ("dfew/1", "happy"),
        ("dfew/2", "sad"),
        ("dfew/4", "neutral"),
        ("mafw/00001", "angry"),
    ]
    assert [r.prompt_id for r in test.records] == ["dfew/3", "mafw/00002"]
    assert len(train.files) == 2


def test_one_corpus_twice_needs_names(tmp_path: Path) -> None:
    source = {"type": "r1_omni", "path": str(put_json(tmp_path / "a.json", ["1.mp4"]))}
    with pytest.raises(DatasetError, match=r"got 'a/1\.mp4' twice; give each of its sources a different name"):
        read({"type": "mix", "sources": [source, source]})
    twice = read({"type": "mix", "sources": [source, {**source, "name": "again"}]})
    assert [r.prompt_id for r in twice.records] == ["a/1.mp4", "again/1.mp4"]


# -- a run's reading ------------------------------------------------------------------------------


def test_a_run_reads_a_mix_and_reports_what_it_lacks(tmp_path: Path) -> None:
    mix_of(tmp_path)
    (tmp_path / "DFEW" / "part_3" / "2.mp4").unlink()
    path = put_text(
        tmp_path / "config.yaml",
        f"""
data:
  taxonomy: r1_omni
  source: {{type: mix, sources: [{{type: dfew, root: {tmp_path}/DFEW}}, {{type: mafw, root: {tmp_path}/MAFW}}]}}
  heldout: {{type: dfew, root: {tmp_path}/DFEW}}
evaluation: {{policies: [grpo]}}
""",
    )
    config = load_config(str(path), [])
    same = load_config(str(path), ["--data.heldout.part=train"])
    assert load_corpora(same, tmp_path, on_clip=lambda done, total: None).left_out[-1] == (
        "2 clips of data.heldout are trained on, too, the first: '1'"
    )
    corpora_by_split = check_inputs(config)
    assert {split: len(corpus.records) for split, corpus in corpora_by_split.items()} == {"train": 3, "heldout": 1}
    (line,) = left_out(corpora_by_split)
    assert line.startswith("1 clips of data.source are left out as missing, the first: ")
    assert "set_1.csv:3" in line
    corpora = load_corpora(config, tmp_path, on_clip=lambda done, total: None)
    assert corpora.left_out == (line,)
    assert [r.split for r in corpora.heldout] == ["heldout"]
    # a missing file changes the records, and so the hash
    before = corpora.sha256
    (tmp_path / "DFEW" / "part_2" / "1.mp4").unlink()
    assert load_corpora(config, tmp_path, on_clip=lambda done, total: None).sha256 != before


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["--data.source={type: dfew, root: r, fold: 6}"], "data.source.fold must be valid"),
        (["--data.source={type: dfew}"], "data.source.root must be given"),
        (["--data.source={type: mix, sources: []}"], "data.source.sources must be valid"),
        (["--data.source={type: mix, sources: [{type: faces}]}"], "data.source.sources.0.type must be one of"),
        (["--data.heldout={type: synthetic}"], "data.heldout.type must be one of"),
        (["--data.video_dropout=0.6", "--data.audio_dropout=0.6"], "must add up to at most 1, got 1.2"),
        (["--data.transcript_dropout=0.5"], "data.transcript_dropout must be 0 without data.show_transcripts"),
        (
            [
                "--data.source={type: dfew, root: r}",
                "--data.validation={type: dfew, root: r, validation_share: 0.1}",
            ],
            "must be those of data.validation, got 0 and 0 beside 0.1 and 0",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(overrides: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# -- transcripts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonl", "csv", "srt"])
def test_transcripts_beside_the_corpus(tmp_path: Path, kind: str) -> None:
    root = put_dfew(tmp_path / "DFEW", train={1: 1, 12: 2}, test={3: 3})
    speech = "It's 3 o'clock, <really>."
    if kind == "jsonl":
        path = put_text(tmp_path / "said.jsonl", json.dumps({"name": "00012", "text": speech}) + "\n")
    elif kind == "csv":
        path = put_text(tmp_path / "said.csv", f'name,text\r\n12.mp4,"{speech}"\r\n')
    else:
        path = tmp_path / "said"
        put_text(
            path / "00012.srt", "1\r\n00:00:00,000 --> 00:00:01,500\r\n<i>It's 3</i>\r\no'clock, <really>.\r\n"
        )
        speech = "It's 3 o'clock, ."
    settings: dict[str, object] = {"type": "dfew", "root": str(root), "transcripts": str(path)}
    silent, spoken_clip = read(settings).records
    assert (silent.transcript, spoken_clip.transcript) == (None, speech)
    assert spoken_clip.question == QUESTION
    shown = read(settings, shows_transcripts=True).records
    assert [r.question for r in shown] == [QUESTION, f"What is said: {speech}\n{QUESTION}"]


def test_subtitles_are_the_words_alone() -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\n1984\n\n2\n00:00:03,000 --> 00:00:04,000\n{\\an8}was - a book\n"
    assert spoken(text) == "1984 was - a book"


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("said.jsonl", '{"name": 12, "text": "x"}', "said.jsonl:1: a line must be"),
        (
            "said.jsonl",
            '{"name": "1", "text": "x"}\n{"name": "00001", "text": "y"}',
            "said.jsonl:2: a clip must have one",
        ),
        ("said.csv", "name,words\n1,x\n", "said.csv:1: a header must have the columns name, text"),
        ("said.csv", "name,text\n99,x\n", "transcripts must name the clips by id, got none of 1, the first '1'"),
        ("said.txt", "x", "transcripts must be a .jsonl or .csv file or a folder of srt files"),
    ],
)
def test_transcripts_that_are_wrong_say_where(tmp_path: Path, name: str, text: str, part: str) -> None:
    root = put_dfew(tmp_path / "DFEW", train={1: 1}, test={})
    path = put_text(tmp_path / name, text)
    with pytest.raises(DatasetError) as caught:
        read({"type": "dfew", "root": str(root), "transcripts": str(path)})
    assert part in str(caught.value)


# -- questions, modalities and dropout ------------------------------------------------------------

BOTH = Clip(clip_id="a", video_path="a.mp4", audio_path="a.mp4")
VIDEO = Clip(clip_id="a", video_path="a.mp4", audio_path=None)
AUDIO = Clip(clip_id="a", video_path=None, audio_path="a.wav")


def test_the_question_states_the_modalities() -> None:
    assert [question_of(clip, question=None) for clip in (BOTH, VIDEO, AUDIO)] == [
        QUESTION,
        VIDEO_QUESTION,
        AUDIO_QUESTION,
    ]
    assert len({QUESTION, VIDEO_QUESTION, AUDIO_QUESTION}) == 3
    assert [question_of(clip, question="Why?") for clip in (BOTH, VIDEO, AUDIO)] == [
        "Why?",
        "Why?\nThe clip has no sound.",
        "Why?\nThe clip has no picture.",
    ]


@pytest.mark.parametrize("clip", [BOTH, VIDEO, AUDIO])
@pytest.mark.parametrize("question", [None, "Why?"])
@pytest.mark.parametrize("transcript", [None, "Hi."])
def test_a_question_can_be_split_into_its_parts(clip: Clip, question: str | None, transcript: str | None) -> None:
    text = question_of(clip, question=question, transcript=transcript)
    assert base_question(text, clip=clip, transcript=transcript) == question


def test_a_single_modality_of_any_corpus(tmp_path: Path) -> None:
    root = put_dfew(tmp_path / "DFEW", train={1: 1}, test={})
    (video,) = read({"type": "dfew", "root": str(root), "modality": "video"}).records
    (audio,) = read({"type": "dfew", "root": str(root), "modality": "audio"}).records
    assert (video.clip.audio_path, audio.clip.video_path) == (None, None)
    assert (video.question, audio.question) == (VIDEO_QUESTION, AUDIO_QUESTION)
    path = put_json(tmp_path / "a.json", ["1.mp4", "2.mp4"], tags="<video>")
    with pytest.raises(DatasetError, match="must have clips of the part train, got 2 no-audio"):
        read({"type": "r1_omni", "path": str(path), "modality": "audio"})


def record(index: int, clip: Clip = BOTH) -> Record:
    """A record with its transcript in the question."""
    return Record(
        prompt_id=f"clip-{index}",
        clip=clip,
        question=question_of(clip, question=None, transcript="Hi."),
        label="sad",
        dataset="d",
        split="train",
        transcript="Hi.",
    )


DROPPING = DataConfig(show_transcripts=True, transcript_dropout=0.5, video_dropout=0.2, audio_dropout=0.3)


def test_dropout_keeps_its_shares_and_adapts_the_question() -> None:
    vary = dropout_of(DROPPING, seed=1)
    assert vary is not None
    varied = [vary(record(i), 0) for i in range(2000)]
    no_video = [r for r in varied if r.clip.video_path is None]
    no_audio = [r for r in varied if r.clip.audio_path is None]
    assert 330 < len(no_video) < 470
    assert 520 < len(no_audio) < 680
    assert not {r.prompt_id for r in no_video} & {r.prompt_id for r in no_audio}
    assert 900 < sum(r.question.startswith("What is said: Hi.\n") for r in varied) < 1100
    assert all(r.question.endswith(AUDIO_QUESTION) for r in no_video)
    assert all(r.question.endswith(VIDEO_QUESTION) for r in no_audio)
    # rewards may use the transcript
    assert all(r.transcript == "Hi." for r in varied)


def test_dropout_differs_between_epochs_and_is_reproducible() -> None:
    vary = dropout_of(DROPPING, seed=1)
    assert vary is not None
    records = [record(i) for i in range(50)]
    epochs = [[vary(r, epoch).question for r in records] for epoch in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]


def test_a_clip_keeps_its_only_modality() -> None:
    vary = dropout_of(DataConfig(video_dropout=0.5, audio_dropout=0.5), seed=0)
    assert vary is not None
    for clip in (VIDEO, AUDIO):
        assert all(vary(record(i, clip), 0) == record(i, clip) for i in range(20))
    assert dropout_of(DataConfig(), seed=0) is None


def test_the_stream_applies_dropout() -> None:
    vary = dropout_of(DataConfig(audio_dropout=1.0), seed=0)
    stream = PromptStream([record(0)], seed=0, vary=vary)
    assert stream.peek(1)[0].clip.audio_path is None
    draw = stream.next()
    assert (draw.record.clip.audio_path, draw.record.prompt_id) == (None, "clip-0")
