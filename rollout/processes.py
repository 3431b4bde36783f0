"""The processes of an engine."""

import contextlib

import psutil


def engine_processes(actor: int) -> dict[str, int]:
    """Process ids of an actor and of vLLM below it, by name: `actor`, `core`, and `worker-0` and so on.

    A worker that shares the core's process, as on one GPU, has no entry. vLLM names its processes once they run.
    """
    titles: list[tuple[str, int]] = []
    for child in psutil.Process(actor).children(recursive=True):
        # it may end meanwhile
        with contextlib.suppress(psutil.NoSuchProcess):
            titles.append((" ".join(child.cmdline()), child.pid))
    cores = [pid for title, pid in titles if "::EngineCore" in title]
    workers = sorted((len(title), title, pid) for title, pid in titles if "::Worker" in title)
    processes = {"actor": actor} | {f"worker-{index}": pid for index, (_, _, pid) in enumerate(workers)}
    if cores:
        processes["core"] = cores[0]
    return processes
