"""Learner ranks without Ray: processes forked from one that has imported torch and DeepSpeed already."""

import concurrent.futures
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from common.config.learner import LearnerConfig
from learner.engine import LearnerEngine
from learner.training.batch import TrainGroup
from tests.support.media.clips import case_named, processed

TIMEOUT_S = 400
PRELOADED = ["torch", "deepspeed", "transformers.models.qwen2_5_omni.modeling_qwen2_5_omni", "tests.support.ranks"]


def on_ranks(num_ranks: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(*args)` answers on each rank; the ranks have a rendezvous, and may start engines one by one."""
    context = multiprocessing.get_context("forkserver")
    os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with concurrent.futures.ProcessPoolExecutor(num_ranks, mp_context=context) as pool:
        calls = [pool.submit(_as_rank, rank, num_ranks, port, work, args) for rank in range(num_ranks)]
        done, late = concurrent.futures.wait(calls, timeout=TIMEOUT_S, return_when="FIRST_EXCEPTION")
        failed = [call for call in done if call.exception() is not None]
        if failed or late:
            # the others wait for it in a collective
            for process in list(pool._processes.values()):
                process.kill()
        if failed:
            raise RuntimeError("a rank failed") from failed[0].exception()
        assert not late, f"ranks must end within {TIMEOUT_S} s"
        return [call.result() for call in calls]


def _as_rank(rank: int, num_ranks: int, port: int, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    return work(*args)


def start(model_path: str, config: LearnerConfig, *, dtype: str = "float32", **changes: Any) -> LearnerEngine:
    """This process's rank."""
    settings: dict[str, Any] = {
        "model_path": model_path,
        "reference_path": None,
        "dtype": dtype,
        "pad_token_id": 0,
        "temperature": 1.0,
        "max_tokens": 24,
        "seed": 0,
    }
    return LearnerEngine(config=config, **(settings | changes))


def share_of(groups: Sequence[TrainGroup], engine: LearnerEngine) -> list[TrainGroup]:
    """Every so manieth group."""
    return list(groups[engine.rank :: int(os.environ["WORLD_SIZE"])])


def recorded(model_path: str, names: Sequence[str], *, seed: int = 0, size: int = 4) -> list[TrainGroup]:
    """Groups of clips of these names, with completions of unequal length and advantage."""
    random = torch.Generator().manual_seed(seed)
    groups: list[TrainGroup] = []
    for index, name in enumerate(names):
        lengths = torch.randint(3, 21, (size,), generator=random).tolist()
        ids = tuple(tuple(torch.randint(20, 380, (n,), generator=random).tolist()) for n in lengths)
        logprobs = tuple(tuple((-9 * torch.rand(n, generator=random) - 0.5).tolist()) for n in lengths)
        advantages = tuple(torch.randn(size, generator=random).tolist())
        prompt = processed(case_named(name), model_path, seed=index)
        groups.append(TrainGroup(prompt=prompt, token_ids=ids, rollout_logprobs=logprobs, advantages=advantages))
    return groups


def parameters_of(engine: LearnerEngine) -> dict[str, torch.Tensor]:
    """Whole copies, by checkpoint name."""
    return engine.source.gather(list(engine.source.parameters))


def state_of(engine: LearnerEngine) -> dict[str, torch.Tensor]:
    """Whole parameters, moments and float32 copies of what trains."""
    from learner.zero.optimizer_state import read_state

    state = parameters_of(engine)
    for name, parameter in engine._module.named_parameters():
        if parameter.requires_grad:
            found = read_state(engine._deepspeed, name, parameter)
            state |= {key: value.cpu().clone() for key, value in found.items()}
    return state
