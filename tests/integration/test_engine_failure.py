"""Real engines that cannot start or are killed: the error names the cause, from the process that knew it."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from safetensors.torch import load_file, save_file

from common.errors import EngineError, EngineStartError
from rollout.actor import EngineClient
from tests.integration.conftest import Run
from tests.support.engines import ENGINE, SAMPLING, BreakableEngine, start_engine
from tests.support.media.clips import case_named, processed

pytestmark = pytest.mark.usefixtures("local_ray")


def failure_of(run: Run, client: EngineClient, *, is_killed: bool = False) -> str:
    """What an engine that cannot start says to who waits for it."""
    try:
        with pytest.raises(EngineStartError) as caught:
            run(client.warm_up([]))
        assert caught.value.is_killed == is_killed
        # vLLM's own errors, which point to a text that stands elsewhere
        assert "above" not in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)
    finally:
        ray.kill(client.handle)


@pytest.mark.long
def test_more_cache_than_there_is_memory_is_named(run: Run, untied: str) -> None:
    said = failure_of(
        run, start_engine(untied, name="greedy", config=ENGINE.model_copy(update={"kv_cache_gib": 9e4}))
    )
    assert said.startswith("engine greedy could not start: Available memory on node ")
    assert "is less than requested memory for kv (90000.0 GiB)" in said


def test_a_share_of_memory_that_is_not_free_is_named(run: Run, untied: str) -> None:
    config = ENGINE.model_copy(update={"kv_cache_gib": None, "gpu_memory_utilization": 1.0})
    said = failure_of(run, start_engine(untied, name="greedy", config=config))
    assert "on startup is less than desired CPU memory utilization (1.0, " in said


@pytest.mark.long
def test_a_checkpoint_without_one_of_its_tensors_is_named(run: Run, untied: str, tmp_path: Path) -> None:
    folder = shutil.copytree(untied, tmp_path / "incomplete")
    tensors = load_file(folder / "model.safetensors")
    del tensors["thinker.model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = failure_of(run, start_engine(str(folder)))
    assert "Following weights were not initialized from checkpoint: {'language_model.model.norm.weight'}" in said


@pytest.mark.long
def test_a_configuration_that_vllm_refuses_is_named(run: Run, untied: str, tmp_path: Path) -> None:
    folder = shutil.copytree(untied, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"]["max_position_embeddings"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    said = failure_of(run, start_engine(str(folder)))
    assert "max_model_len (1024) is greater than the derived max_model_len" in said


class KilledEngine(BreakableEngine):
    """An engine whose worker is killed while it starts, as by the kernel when memory is short."""

    def __init__(self, **settings: Any) -> None:
        threading.Thread(target=_kill_worker, daemon=True).start()
        super().__init__(**settings)


def _spawned(process: psutil.Process) -> list[psutil.Process]:
    """vLLM's processes below one: under the title they take, or before that as multiprocessing starts them."""
    titles = ("VLLM::", "spawn_main")
    return [child for child in process.children() if any(t in " ".join(child.cmdline()) for t in titles)]


def _kill_worker() -> None:
    while True:
        workers = [worker for core in _spawned(psutil.Process()) for worker in _spawned(core)]
        if workers:
            workers[0].kill()
            return
        time.sleep(0.05)


@pytest.mark.long
def test_a_worker_that_is_killed_while_it_loads_is_named_with_its_signal(run: Run, untied: str) -> None:
    said = failure_of(run, start_engine(untied, actor=KilledEngine), is_killed=True)
    assert "VllmWorker-0 was killed by SIGKILL" in said


@pytest.mark.long
def test_an_engine_names_the_log_on_its_own_node(run: Run, untied: str) -> None:
    said = failure_of(run, start_engine(untied, config=ENGINE.model_copy(update={"max_model_len": 10**6})))
    place, _, node = said.partition("; its output is in ")[2].partition(" on node ")
    logs = list(Path(place).parent.glob(Path(place).name))
    assert node == ray.util.get_node_ip_address()
    assert any(said.partition(": ")[2][:60] in log.read_text() for log in logs)


@pytest.mark.long
def test_a_running_engine_whose_worker_is_killed_says_so(run: Run, untied: str) -> None:
    client, prompt = start_engine(untied, name="killed"), processed(case_named("text-only"), untied)
    try:
        core = _spawned(psutil.Process(ray.get(client.handle.pid.remote())))[0]
        _spawned(core)[0].kill()
        with pytest.raises(EngineError, match="engine killed: generate: VllmWorker-0 was killed by SIGKILL"):
            run(client.generate(prompt, sampling=SAMPLING, group_size=2, seed=0, deadline_s=60.0))
    finally:
        ray.kill(client.handle)
