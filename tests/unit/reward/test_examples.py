"""Every example runs as its own docstring configures it."""

import asyncio
import importlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import reward.examples
from common.config.reward import HttpRewardConfig, RewardConfig
from common.errors import MediaError
from common.types import Clip, Record
from reward.request import RewardRequest, modalities_of
from reward.service import GroupReport, RewardService
from reward.validation import check_rewards
from tests.support.builders import make_record, make_request
from tests.support.media.files import pictures, write_media

FOLDER = Path(reward.examples.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def entry_of(name: str) -> dict[str, Any]:
    """What an example's docstring configures."""
    doc = importlib.import_module(f"reward.examples.{name}").__doc__ or ""
    (entry,) = yaml.safe_load(doc[doc.index("- {") :])
    return entry


def scored(entry: dict[str, Any], requests: Sequence[RewardRequest]) -> GroupReport:
    """A group by one example."""
    config = RewardConfig.model_validate({"rewards": [entry]})
    check_rewards(config)

    async def run() -> GroupReport:
        service = RewardService(config)
        try:
            return await service.score_requests(requests)
        finally:
            service.close()

    return asyncio.run(run())


def totals(name: str, *texts: str, record: Record | None = None) -> list[float]:
    """Of completions by an example."""
    record = record or make_record(label="happy")
    modalities = modalities_of(record.clip)
    requests = [replace(make_request(text, record=record), modalities=modalities) for text in texts]
    report = scored(entry_of(name), requests)
    assert isinstance(report.scores, list), report.scores
    return [score.total for score in report.scores]


def test_every_kind_has_its_example() -> None:
    assert {entry_of(name)["type"] for name in NAMES} == {"python", "actor", "named_actor", "http"}
    for name in NAMES:
        RewardConfig.model_validate({"rewards": [entry_of(name)]})


def test_brevity() -> None:
    assert totals("brevity", "short", "word " * 120) == [0.2 * 1.0, 0.2 * 0.5]


def test_trl_style() -> None:
    assert totals("trl_style", "<answer> Happy</answer>", "<answer>sad</answer>", "happy") == [1.0, 0.0, 0.0]
    report = scored(entry_of("trl_style"), [make_request("x", label="")])
    assert report.left_out == ("words",)


def test_verl_style() -> None:
    report = scored(entry_of("verl_style"), [make_request("Happy, so happy"), make_request("sad")])
    assert isinstance(report.scores, list)
    assert [(s.total, s.facts["mention/num_mentions"]) for s in report.scores] == [(1.0, 2.0), (0.0, 0.0)]


def test_judge() -> None:
    assert totals("judge", "Tears, and sobs", "a smile") == [pytest.approx(2 / 3), 0.0]


def test_loudness_listens(tmp_path: Path) -> None:
    # a hiss of about -20 dB
    path = str(write_media(tmp_path / "clip.mp4"))
    record = replace(make_record(), clip=Clip(clip_id="c", video_path=path, audio_path=path))
    assert totals("loudness", "He shouts", "calm", record=record) == [0.0, 0.0]
    entry = entry_of("loudness")
    requests = [replace(make_request("He shouts", record=record), modalities=("audio",))]
    report = scored({**entry, "options": {"quiet_db": 0}}, requests)
    assert isinstance(report.scores, list)
    (score,) = report.scores
    assert score.total == -1.0
    assert -30 < score.facts["loudness/level_db"] < -10
    assert score.details["loudness"].startswith("says shout at -")
    silent = replace(make_record(), clip=Clip(clip_id="c", video_path=path, audio_path=None))
    requests = [replace(make_request("He shouts", record=silent), modalities=("video",))]
    assert scored(entry, requests).left_out == ("loudness",)


def is_listening(port: int) -> bool:
    """On this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_http_service() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, str(FOLDER / "http_service.py"), str(port)])
    try:
        deadline = time.monotonic() + 60
        while not is_listening(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        entry = HttpRewardConfig.model_validate({**entry_of("http_service"), "url": f"http://127.0.0.1:{port}"})
        report = scored(entry.model_dump(), [make_request("x"), make_request("")])
    finally:
        server.kill()
        server.wait()
    assert isinstance(report.scores, list)
    assert [score.total for score in report.scores] == [1.0, 0.0]


def test_a_reward_may_look_at_the_clip(tmp_path: Path) -> None:
    path = str(write_media(tmp_path / "clip.mp4", num_frames=24, fps=12.0, audio_s=2.0))
    record = replace(make_record(), clip=Clip(clip_id="c", video_path=path, audio_path=path))
    request = make_request("x", record=record)
    frames, fps = request.frames(max_fps=4.0, max_frames=5)
    assert frames.shape == (5, 64, 64, 3)
    assert fps == pytest.approx(2.5)
    assert abs(len(request.waveform()) / 16_000 - 2.0) < 0.1
    # what the group shares is decoded once
    assert make_request("y", record=record).frames(max_fps=4.0, max_frames=5)[0] is frames
    bare = replace(record, clip=Clip(clip_id="c", video_path=None, audio_path=None))
    with pytest.raises(MediaError):
        make_request("x", record=bare).frames()
    with pytest.raises(MediaError):
        make_request("x", record=bare).waveform()


def test_a_folder_of_frames_has_the_rate_of_its_clip(tmp_path: Path) -> None:
    for index, picture in enumerate(pictures(4)):
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    clip = Clip(clip_id="f", video_path=str(tmp_path), audio_path=None, frames_fps=2.0)
    frames, fps = make_request("x", record=replace(make_record(), clip=clip)).frames()
    assert (len(frames), fps) == (4, 2.0)
