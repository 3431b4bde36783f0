"""`vllm serve` answers a clip from a checkpoint's `hf/`, with an interpreter that knows nothing of omni-rlvr."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common.config.learner import LearnerConfig
from tests.integration.conftest import Run
from tests.integration.test_checkpoint import save, take_steps
from tests.integration.test_learner import recorded_groups
from tests.support.engines import stop_ranks

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
START_S = 300
HOOK = "_omni_rlvr_torchvision_hook"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the same libraries and without omni-rlvr."""
    folder = tmp_path_factory.mktemp("stranger") / "venv"
    venv.create(folder, symlinks=True)
    own, (site,) = Path(sysconfig.get_paths()["purelib"]), folder.glob("lib/python*/site-packages")
    # as a plain path: the other environment's own .pth files, and with them its editable installs, are not read
    (site / "libraries.pth").write_text(f"{own}\n")
    if (own / f"{HOOK}.pth").exists():
        (site / f"{HOOK}.pth").write_text((own / f"{HOOK}.pth").read_text())
    # the wheel for CPU has another name, and vLLM's command looks its own version up
    named = site / "vllm-0+cpu.dist-info"
    named.mkdir()
    (named / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0+cpu\n")
    return folder / "bin" / "python"


def without_omni_rlvr() -> dict[str, str]:
    """The environment, bare of our paths; no plugin of vLLM's is loaded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMNI_RLVR", "RAY"))}
    return {
        **kept,
        "VLLM_PLUGINS": "",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="module")
def checkpoint_folder(run: Run, local_ray: None, untied: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a step leaves."""
    folder = tmp_path_factory.mktemp("run")
    groups = recorded_groups(untied, ["av-8fps-odd-frames", "audio-only"], seed=1)
    _, _, ranks = take_steps(run, untied, LearnerConfig(beta=0.0), [groups])
    run(save(ranks, folder))
    stop_ranks(ranks)
    return folder / "step_000001" / "hf"


@pytest.fixture(scope="module")
def server(stranger: Path, checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    command = [str(stranger), "-m", "vllm.entrypoints.cli.main", "serve", str(checkpoint_folder)]
    command += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    command += ["--max-num-seqs", "2", "--served-model-name", "policy"]
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=without_omni_rlvr(),
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            wait_until_it_answers(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Or it has ended, or took too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    pytest.fail(log.read_text()[-4000:])


def clip() -> list[dict[str, Any]]:
    """A second of moving picture and of sound, as parts of a chat message."""
    import av

    video = io.BytesIO()
    with av.open(video, "w", format="mp4") as made:
        stream = made.add_stream("libx264", rate=8, width=112, height=112, pix_fmt="yuv420p")
        for index in range(16):
            picture = np.zeros((112, 112, 3), np.uint8)
            picture[:, 6 * index : 6 * index + 12] = 200
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        made.mux(stream.encode(None))
    sound = io.BytesIO()
    soundfile.write(sound, 0.1 * np.sin(np.arange(16_000) / 16_000 * 2 * np.pi * 220), 16_000, format="WAV")
    encoded = base64.b64encode(video.getvalue()).decode()
    return [
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}},
        {
            "type": "input_audio",
            "input_audio": {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"},
        },
        {"type": "text", "text": "Which emotion is the most obvious?"},
    ]


def test_the_interpreter_knows_nothing_of_omni_rlvr(stranger: Path, tmp_path: Path) -> None:
    asked = (
        "import importlib.util as u; print([m for m in ('learner', 'rollout', 'common', 'vllm') if u.find_spec(m)])"
    )
    done = subprocess.run(
        [str(stranger), "-c", asked],
        capture_output=True,
        text=True,
        env=without_omni_rlvr(),
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.strip() == "['vllm']"
    assert sys.executable != str(stranger)


def test_vllm_serves_a_checkpoint_and_answers_a_clip(server: str) -> None:
    body = {
        "model": "policy",
        "messages": [{"role": "user", "content": clip()}],
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": True,
    }
    request = urllib.request.Request(
        f"{server}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        said = json.load(answer)
    (choice,) = said["choices"]
    assert choice["finish_reason"] in {"stop", "length"}
    assert len(choice["logprobs"]["content"]) == said["usage"]["completion_tokens"] >= 1
    # the question alone is a few dozen tokens: both tracks are in the prompt
    assert said["usage"]["prompt_tokens"] > 100
