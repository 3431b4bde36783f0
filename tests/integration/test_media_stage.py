"""The media stage on a real Ray: deadlines of clips that wait for a CPU, and of clips that hang."""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from common.config.data import DataConfig
from common.prompts.preparation import MediaSettings
from common.prompts.preparation_ray import MediaStage
from common.types import Clip, Failure, Record
from tests.integration.conftest import Run
from tests.support.builders import make_record
from tests.support.media.corpora import put_mp4

pytestmark = pytest.mark.xdist_group("engines")
NUM_CLIPS = 12


def records(folder: Path) -> list[Record]:
    """Clips of different names and one content, each of which is a task."""
    video = str(put_mp4(folder / "clip.mp4"))
    clip = Clip(clip_id="clip", video_path=video, audio_path=video)
    return [replace(make_record(f"clip-{i}"), clip=clip) for i in range(NUM_CLIPS)]


@pytest.fixture(scope="module")
def num_cpus(local_ray: None) -> float:
    """All CPUs that no engine has: tasks that take as many run one after the other."""
    return ray.available_resources()["CPU"]


def stage(model_path: str, *, num_cpus: float, deadline_s: float) -> MediaStage:
    data = DataConfig(num_cpus=num_cpus, deadline_s=deadline_s, cache_gib=0.0)
    return MediaStage(MediaSettings(data=data, model_path=model_path), env={"OMP_NUM_THREADS": "1"})


def test_a_clip_that_waits_for_a_cpu_keeps_its_deadline(
    num_cpus: float, run: Run, untied: str, tmp_path: Path
) -> None:
    clips = records(tmp_path)

    async def seconds_of_one() -> float:
        warm = stage(untied, num_cpus=num_cpus, deadline_s=600.0)
        assert not isinstance(await warm(clips[0]), Failure)
        start = time.perf_counter()
        assert not isinstance(await warm(clips[1]), Failure)
        return time.perf_counter() - start

    async def failures_of_all(deadline_s: float) -> list[Failure]:
        waiting = stage(untied, num_cpus=num_cpus, deadline_s=deadline_s)
        answers = await asyncio.gather(*map(waiting, clips))
        return [answer for answer in answers if isinstance(answer, Failure)]

    # the last clip waits for more than twice its deadline
    assert run(failures_of_all(run(seconds_of_one()) * NUM_CLIPS / 3)) == []


def test_a_clip_that_hangs_fails_at_its_deadline_and_frees_its_cpu(
    num_cpus: float, run: Run, untied: str, tmp_path: Path
) -> None:
    clips = records(tmp_path)
    fifo = tmp_path / "hangs.mp4"
    os.mkfifo(fifo)
    hanging = replace(clips[0], clip=Clip(clip_id="hangs", video_path=str(fifo), audio_path=None))

    async def both() -> list[object]:
        waiting = stage(untied, num_cpus=num_cpus, deadline_s=20.0)
        return list(await asyncio.gather(waiting(hanging), waiting(clips[1])))

    late, fine = run(both())
    assert isinstance(late, Failure)
    assert not isinstance(fine, Failure)
