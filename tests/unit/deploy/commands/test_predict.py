"""`python -m learner.predict` on real files with a tiny checkpoint: every clip is answered or has its failure."""

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common.config.data import DataConfig
from common.config.questions import QUESTION
from common.datasets.synthetic.mp4 import write_mp4
from common.evaluation.predictions import read_predictions
from common.labels import DFEW
from common.models.qwen2_5_omni.policy import Qwen2_5OmniPolicy
from common.models.qwen2_5_omni.processor import encode_completion
from common.models.registry import family_of
from common.models.tokens import pack_tokens
from common.prompts.preparation import MediaSettings, prepare
from common.types import Clip, Record
from deploy.commands.evaluate import main as evaluate
from deploy.commands.predict import clips_of, main
from deploy.commands.predictor import Answer, Predictor, thought_of
from tests.support.media.clips import CASES, ClipCase, processed
from tests.support.media.files import pictures
from tests.support.predictions import write_lines
from tests.unit.common.evaluation.test_controls import AUDIO_QUESTION


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with sound, one without, a sound, and no media at all."""
    folder = tmp_path_factory.mktemp("clips")
    frames = pictures(8)
    hiss = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
    write_mp4(folder / "a-both.mp4", frames=frames, fps=8, waveform=hiss)
    write_mp4(folder / "b-silent.mp4", frames=frames, fps=8, waveform=None)
    soundfile.write(folder / "c-voice.wav", hiss, 16_000)
    (folder / "notes.txt").write_text("no clip")
    return folder


def predict(tiny: str, out: Path, *inputs: str | Path, code: int = 0, **options: str) -> list[dict[str, Any]]:
    """The lines that it writes."""
    arguments = ["--model", tiny, "--out", str(out), "--max-tokens", "12", *map(str, inputs)]
    assert main([*arguments, *(x for name, value in options.items() for x in (f"--{name}", value))]) == code
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_folder_of_every_kind_of_clip_is_answered(tiny: str, clips: Path, tmp_path: Path) -> None:
    lines = predict(tiny, tmp_path / "deep" / "p.jsonl", clips, taxonomy="dfew")
    assert [Path(line["id"]).name for line in lines] == ["a-both.mp4", "b-silent.mp4", "c-voice.wav"]
    assert [line["modalities"] for line in lines] == [["video", "audio"], ["video"], ["audio"]]
    for line in lines:
        assert 1 <= line["num_tokens"] <= 12
        assert set(line["probabilities"]) == set(DFEW)
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["text"]
    assert len({line["text"] for line in lines}) > 1


def test_bad_clips_stand_among_the_good_with_their_failure(
    tiny: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    inputs = [tmp_path / "text.mp4", clips / "a-both.mp4", tmp_path / "missing.mp4"]
    lines = predict(tiny, tmp_path / "p.jsonl", *inputs, code=1)
    assert [line["id"] for line in lines] == list(map(str, inputs))
    assert lines[0]["failure"].startswith("media/undecodable: ")
    assert "failure" not in lines[1]
    assert lines[2]["failure"] == f"media/missing: {tmp_path}/missing.mp4: no such file"
    assert lines[2]["text"] == ""
    said = capsys.readouterr().err
    assert said.startswith(f"failed: 2 of 3 clips, the first: {tmp_path}/text.mp4: media/undecodable")


def next_of(shown: str, folder: Path) -> list[str]:
    """The command that the last lines name, beside the folder."""
    *_, where, command = shown.splitlines()
    assert where == f"folder  {folder}"
    assert command.startswith("next    python -m ")
    return shlex.split(command)[3:]


def test_answers_to_clips_without_labels_are_shown_by_the_next_command(
    tiny: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my answers" / "p.jsonl"
    lines = predict(tiny, out, clips / "a-both.mp4")
    command = next_of(capsys.readouterr().out, out.parent)
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == lines[0]


def test_a_list_names_clips_and_its_predictions_can_be_scored(
    tiny: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"dataset": "dfew", "fold": 2, "label": "sad"}
    listed = write_lines(
        clips / "list.jsonl",
        [
            {"id": "one", "video": "a-both.mp4", **known},
            {"id": "two", "video": "a-both.mp4", "audio": None, **known},
            {"id": "three", "video": "b-silent.mp4", "audio": "c-voice.wav", "question": "How?", **known},
            {"audio": "c-voice.wav", **known},
        ],
    )
    out = tmp_path / "p.jsonl"
    lines = predict(tiny, out, listed)
    program, *arguments = next_of(capsys.readouterr().out, tmp_path)
    assert (program, evaluate([*arguments, "--out", str(tmp_path / "eval")])) == ("learner.evaluate", 0)
    assert [(line["id"], line["modalities"]) for line in lines] == [
        ("one", ["video", "audio"]),
        ("two", ["video"]),
        ("three", ["video", "audio"]),
        ("c-voice.wav", ["audio"]),
    ]
    found = read_predictions(out)
    assert {p.policy_version for p in found} == {0}
    assert [(p.id, p.fold, p.label, p.video) for p in found][:1] == [("one", 2, "sad", str(clips / "a-both.mp4"))]
    listed.unlink()


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("av-2fps", "video-only-odd-frames", "audio-only")])
def test_every_token_is_the_most_likely_by_the_learners_own_forward(
    case: ClipCase, tiny: str, policy: Qwen2_5OmniPolicy
) -> None:
    prompt = processed(case, tiny)
    tokens = family_of(tiny).generate(policy, prompt, model_path=tiny, max_tokens=8)
    vocabulary = policy.config.text_config.vocab_size
    for position in range(len(tokens)):
        choices = [(*tokens[:position], token) for token in range(vocabulary)]
        with torch.no_grad():
            logprobs, _ = policy(pack_tokens([prompt], [choices], pad_token_id=0))
        last = logprobs[:, position]
        assert last[tokens[position]] >= last.max() - 1e-4


def test_the_pre_processing_is_the_trainings(tiny: str, clips: Path) -> None:
    data = DataConfig(max_frames=4)
    predictor = Predictor(tiny, data=data, taxonomy="open", max_tokens=6)
    path = str(clips / "a-both.mp4")
    clip = Clip(clip_id="a", video_path=path, audio_path=path)
    record = Record(prompt_id="a", clip=clip, question="How?", label="", dataset="d", split="test")
    _, prompt = prepare(record, MediaSettings(data=data, model_path=tiny))
    assert prompt is not None
    answer = predictor(record)
    policy = family_of(tiny).load_policy(tiny, dtype=torch.float32).eval()
    tokens = family_of(tiny).generate(policy, prompt, model_path=tiny, max_tokens=6)
    assert isinstance(answer, Answer)
    assert answer.text == family_of(tiny).decode_completion(tokens, model_path=tiny)
    assert answer.probabilities is None
    assert answer.is_cut_off is (tokens[-1] != encode_completion("", model_path=tiny)[-1])


def test_probabilities_are_the_chain_rule_behind_what_was_thought(
    tiny: str, policy: Qwen2_5OmniPolicy, tmp_path: Path
) -> None:
    prompt = processed(CASES[0], tiny)
    predictor = Predictor(tiny, data=DataConfig(), taxonomy="dfew", max_tokens=4)
    text = "<think>The voice trembles.</think>\n<answer>fear</answer>"
    found = predictor.probabilities(prompt, text, DFEW)
    before = encode_completion("<think>The voice trembles.</think>\n", model_path=tiny)[:-1]
    sums: list[float] = []
    for name in DFEW:
        tokens = (*before, *encode_completion(f"<answer>{name}</answer>", model_path=tiny))
        with torch.no_grad():
            logprobs, _ = policy(pack_tokens([prompt], [[tokens]], pad_token_id=0))
        sums.append(float(logprobs[0, len(before) :].sum()))
    total = sum(math.exp(s - max(sums)) for s in sums)
    assert list(found.values()) == pytest.approx([math.exp(s - max(sums)) / total for s in sums], rel=1e-3)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("<think>a</think>\n<answer>sad</answer>", "<think>a</think>\n"),
        ("<answer>sad</answer><answer>b</answer>", ""),
        ("<think>a</think> so sad", "<think>a</think>\n"),
        ("<think>and then", ""),
        ("sad", ""),
    ],
)
def test_classes_are_scored_behind_the_thinking(text: str, before: str) -> None:
    assert thought_of(text) == before


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a mistake."""
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.err.count("\n") == 1
    return found.err


def test_mistakes_are_one_line(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "p.jsonl")
    good: Sequence[str] = ("--model", tiny, "--out", out)
    assert "clips must be given" in complaint(capsys, *good)
    assert "--model must be given" in complaint(capsys, "--out", out, "x.mp4")
    assert "model.path must be a folder" in complaint(
        capsys, "--model", str(tmp_path / "no"), "--out", out, "x.mp4"
    )
    assert "taxonomy must be one of" in complaint(capsys, *good, "x.mp4", "--taxonomy", "dwef")
    assert "--max-tokens must be >= 1" in complaint(capsys, *good, "x.mp4", "--max-tokens", "0")
    assert "--device must be there, got 'warp'" in complaint(capsys, *good, "x.mp4", "--device", "warp")
    assert "got --loud" in complaint(capsys, *good, "x.mp4", "--loud")
    assert "must hold video or sound files" in complaint(capsys, *good, str(tmp_path))
    assert "each clip must occur once, got 'x.mp4' twice" in complaint(capsys, *good, "x.mp4", "x.mp4")
    for bad, words in (({}, "must have a video, an audio or both"), ({"video": 3}, "video must be a text, got 3")):
        listed = write_lines(tmp_path / "l.jsonl", [{"video": "a.mp4"}, bad])
        assert f"l.jsonl:2: {'a clip ' if not bad else ''}{words}" in complaint(capsys, *good, str(listed))
    assert not Path(out).exists()


def test_sounds_are_asked_as_sounds(tmp_path: Path) -> None:
    asked = [a.record.question for a in clips_of(["x.MP3", "y.mkv"], question=None)]
    assert asked == [AUDIO_QUESTION, QUESTION]
    mute = write_lines(tmp_path / "l.jsonl", [{"video": "a.mp4", "audio": None, "question": "How?"}])
    (listed,) = clips_of([str(mute)], question="What?")
    assert listed.record.question == "How?\nThe clip has no sound."
    found = clips_of(["x.MP3", "y.mkv"], question="How?")
    assert [a.record.question for a in found] == ["How?\nThe clip has no picture.", "How?"]
    assert [(a.record.clip.video_path, a.record.clip.audio_path) for a in found] == [
        (None, "x.MP3"),
        ("y.mkv", "y.mkv"),
    ]


def test_help_is_quick_and_needs_no_torch() -> None:
    program = (
        "import sys; from deploy.commands.predict import main; code = main(['--help']);"
        "sys.exit(code or 10 * bool({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "--taxonomy NAME" in done.stdout
