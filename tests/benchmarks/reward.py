"""What scoring costs: in the library, through the Ray actor, over HTTP, and with a reward that hangs.

    python -m tests.benchmarks.reward [--check] [--minutes M]

Prints JSON: each figure beside its target. Pairs are alternated in one run and their medians compared. The load is
made in this process, on the same cores. `--check` exits 1 where a figure misses its target.
"""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import ray
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.config.reward import PythonRewardConfig, RewardConfig
from common.types import Completion, Failure, Record
from deploy.wiring import start_ray
from reward.actor import RewardActor, RewardClient
from reward.builtin import BUILTIN
from reward.builtin.judge import JudgeReward
from reward.builtin.modality_gain import ModalityGainReward
from reward.request import RewardRequest, requests_of
from reward.service import RewardService
from tests.benchmarks.part import Part, boxed, parser_of
from tests.support.builders import make_completion, make_record

GROUP_SIZE, ROUNDS, NUM_TOKENS = 8, 5, 96
MINUTES = 6.0
THOUGHT = (
    "The corners of her mouth rise and her voice is bright, so she seems glad. "
    'She says "I am so glad you have come" and laughs. '
) * 2
IN_FLIGHT = 32
"""Groups that a run may have asked about at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a figure must reach."""

    figure: str
    bound: float
    is_most: bool = False
    """Whether the bound is the highest that is allowed."""

    def is_met(self, figures: dict[str, float]) -> bool:
        """By the figure as it was measured."""
        value = figures[self.figure]
        return value <= self.bound if self.is_most else value >= self.bound


OPTIONS: dict[str, dict[str, Any]] = {
    "class_balanced": {"frequencies": {"happy": 2488, "sad": 2025, "angry": 2185, "fear": 981}}
}
"""Of the built-in rewards that must have some; the judge's are made where it is measured."""
TARGETS = (
    Target(figure="library_samples_per_s", bound=50_000),
    *(Target(figure=f"{name}_samples_per_s", bound=2_000) for name in BUILTIN),
    Target(figure="actor_samples_per_s", bound=4_000),
    Target(figure="actor_cpu_ms_per_group", bound=1.0, is_most=True),
    Target(figure="actor_p50_ms", bound=4.0, is_most=True),
    Target(figure="hanging_over_healthy", bound=0.95),
    Target(figure="http_open_p99_ms", bound=100.0, is_most=True),
    Target(figure="http_closed_requests_per_s", bound=450),
)


def group(index: int) -> tuple[Record, list[Completion]]:
    """Eight completions of the length of a run's."""
    answers = ("happy", "sad", "angry", "fear")
    texts = [f"<think>{THOUGHT}{index}</think>\n<answer>{answers[i % 4]}</answer>" for i in range(GROUP_SIZE)]
    return make_record(f"clip-{index}"), [make_completion(range(NUM_TOKENS), text=text) for text in texts]


async def library_rate() -> float:
    """Samples per second of accuracy and format, called in this process."""
    service = RewardService(RewardConfig())
    groups = [group(index) for index in range(500)]
    start = time.perf_counter()
    for record, completions in groups:
        report = await service.score_requests(requests_of(record, completions))
        assert not isinstance(report.scores, Failure)
    return len(groups) * GROUP_SIZE / (time.perf_counter() - start)


async def builtin_figures() -> dict[str, float]:
    """Samples per second of each built-in reward, called in this process.

    `modality_gain` is told the engines' answers at once, and the judge remembers what it was asked before: what
    engines and endpoints take is theirs.
    """
    requests = [request for index in range(100) for request in requests_of(*labelled_group(index))]

    async def known(*_: object, condition: str, **__: object) -> float:
        return -0.5 if condition == "av" else -1.5

    figures: dict[str, float] = {}
    for name, found in BUILTIN.items():
        if name == "judge":
            figures[f"{name}_samples_per_s"] = await remembered_rate(requests)
            continue
        reward = found(**OPTIONS.get(name, {}))
        if isinstance(reward, ModalityGainReward):
            bound = reward.bind(known)  # pyright: ignore[reportArgumentType]
            start = time.perf_counter()
            values = [(await bound(request)).value for request in requests]
        else:
            start = time.perf_counter()
            values = [reward(request) for request in requests]
        figures[f"{name}_samples_per_s"] = len(requests) / (time.perf_counter() - start)
        assert None not in values, name
    return figures


def labelled_group(index: int) -> tuple[Record, list[Completion]]:
    """With all that a built-in reward may need."""
    record, completions = group(index)
    clip = replace(record.clip, audio_path=record.clip.video_path)
    known = replace(
        record,
        clip=clip,
        taxonomy="dfew",
        transcript="I am so glad that you came",
        labels=("happy", "surprise"),
        label_distribution={"happy": 0.7, "surprise": 0.3},
    )
    return known, completions


async def remembered_rate(requests: Sequence[RewardRequest]) -> float:
    """Samples per second of a judge that has been asked about all of them before."""
    answer = json.dumps({"choices": [{"message": {"content": "Score: 4"}}]})

    async def judge(_: Request) -> Response:
        return Response(answer, media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", judge, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    with tempfile.TemporaryDirectory() as folder:
        rubric = Path(folder) / "rubric.txt"
        rubric.write_text("Is it so? $completion\n$label\n")
        reward = JudgeReward(endpoint=f"http://127.0.0.1:{port}/v1", model="judge", rubric=str(rubric))
        for request in requests:
            await reward.ask(request)
        start = time.perf_counter()
        values = [(await reward.ask(request)).value for request in requests]
        took_s = time.perf_counter() - start
    server.should_exit = True
    await serving
    assert values == [0.8] * len(requests)
    return len(requests) / took_s


async def concurrently(work: Callable[[int], Awaitable[Any]], *, count: int, width: int) -> float:
    """Seconds of so many calls, so many at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(width)))
    return time.perf_counter() - start


def cpu_s(pids: Sequence[int]) -> float:
    """Processor seconds of processes so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(t.user + t.system for t in times)


class PidActor(RewardActor):
    """Says where it runs."""

    async def pid(self) -> int:
        """Of its process."""
        return psutil.Process().pid


async def actor_figures() -> dict[str, float]:
    """Through Ray: many groups at a time, and one group alone."""
    actor: Any = ray.remote(PidActor).options(num_cpus=0)
    client = RewardClient(actor.remote(config=RewardConfig()), deadline_s=600.0)
    pids = [psutil.Process().pid, await client.handle.pid.remote()]
    groups = [group(index) for index in range(1_024)]
    rates, cpu_ms = [], []
    for number in range(ROUNDS + 1):
        before = cpu_s(pids)
        took_s = await concurrently(lambda i: client(*groups[i]), count=len(groups), width=IN_FLIGHT)
        own_s = await library_seconds(groups)
        if number:
            cpu_ms.append(1000 * (cpu_s(pids) - before - 2 * own_s) / len(groups))
            rates.append(len(groups) * GROUP_SIZE / took_s)
    alone: list[float] = []
    for record, completions in groups[:300]:
        start = time.perf_counter()
        await client(record, completions)
        alone.append(1000 * (time.perf_counter() - start))
        await asyncio.sleep(0.002)
    ray.kill(client.handle)
    return {
        "actor_samples_per_s": statistics.median(rates),
        "actor_cpu_ms_per_group": statistics.median(cpu_ms),
        "actor_p50_ms": statistics.median(alone),
    }


async def library_seconds(groups: Sequence[tuple[Record, list[Completion]]]) -> float:
    """What the scoring itself takes: the rest is the actor's. Called once here, once in the actor."""
    service = RewardService(RewardConfig())
    start = time.perf_counter()
    for record, completions in groups:
        await service.score_requests(requests_of(record, completions))
    return time.perf_counter() - start


async def hanging_figures() -> dict[str, float]:
    """Four rewards, one of which hangs on every completion: what the other three get done meanwhile."""
    pairs = [(await others_rate("good"), await others_rate("hanging")) for _ in range(ROUNDS)]
    healthy = [well for well, _ in pairs]
    ratios = [hanging / well for well, hanging in pairs]
    return {
        "three_of_four_groups_per_s": statistics.median(healthy),
        "hanging_over_healthy": statistics.median(ratios),
    }


async def others_rate(fourth: str, *, count: int = 300) -> float:
    """Groups per second that three rewards are through with, beside a fourth."""
    names = ("first", "second", "third")
    entries = [
        PythonRewardConfig(type="python", name=name, entrypoint="tests.support.reward.user:good") for name in names
    ]
    last = PythonRewardConfig(
        type="python", name="fourth", entrypoint=f"tests.support.reward.user:{fourth}", deadline_s=300
    )
    service = RewardService(RewardConfig(rewards=(*entries, last)))
    await service.start()
    left, done = dict.fromkeys(names, count), asyncio.Event()
    for index, name in enumerate(names):
        service._hosted[index] = Counted(service._hosted[index], left, name, done)  # pyright: ignore[reportArgumentType]
    requests = [requests_of(*group(index)) for index in range(count)]
    start = time.perf_counter()
    scoring = [asyncio.create_task(service.score_requests(r)) for r in requests]
    await done.wait()
    took_s = time.perf_counter() - start
    for task in scoring:
        task.cancel()
    await asyncio.gather(*scoring, return_exceptions=True)
    service.close()
    return count / took_s


class Counted:
    """A reward that tells when it is through with every group."""

    def __init__(self, asked: Any, left: dict[str, int], name: str, done: asyncio.Event) -> None:
        self.entry, self.decision, self._asked, self._left, self._name, self._done = (
            asked.entry,
            asked.decision,
            asked,
            left,
            name,
            done,
        )
        self.start, self.close = asked.start, asked.close

    async def __call__(self, requests: Sequence[Any]) -> Any:
        outcomes = await self._asked(requests)
        self._left[self._name] -= 1
        if not any(self._left.values()):
            self._done.set()
        return outcomes


def started_server() -> subprocess.Popen[str]:
    """`python -m reward.http`, begun."""
    command = [sys.executable, "-m", "reward.http", "--port", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def http_figures() -> dict[str, float]:
    """A server of its own: 300 requests per second whatever it answers, then 32 connections one after the other."""
    server = started_server()
    assert server.stdout is not None
    try:
        address = server.stdout.readline().split()[-1]
        samples = [{"completion": c.text, "label": "happy"} for c in group(0)[1]]
        body = json.dumps({"samples": samples}).encode()
        connections = aiohttp.TCPConnector(limit=256)
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(address, connector=connections, headers=headers) as client:

            async def ask(_: int) -> None:
                async with client.post("/v1/score", data=body) as answer:
                    assert answer.status == 200
                    await answer.read()

            await concurrently(ask, count=500, width=32)
            p99_ms = await open_loop(ask, rate=300.0, seconds=10.0)
            took_s = await concurrently(ask, count=4_500, width=32)
    finally:
        server.terminate()
        server.wait()
    return {"http_open_p99_ms": p99_ms, "http_closed_requests_per_s": 4_500 / took_s}


async def open_loop(ask: Callable[[int], Awaitable[None]], *, rate: float, seconds: float) -> float:
    """99th percentile in milliseconds, from when each request was due."""
    loop = asyncio.get_running_loop()
    # once all are there: making them takes a while, too
    start = loop.time() + 1.0

    async def due(index: int) -> float:
        at = start + index / rate
        await asyncio.sleep(at - loop.time())
        await ask(index)
        return loop.time() - at

    took = await asyncio.gather(*(due(index) for index in range(int(rate * seconds))))
    return 1000 * statistics.quantiles(took, n=100)[98]


async def measure(part: Part) -> dict[str, float]:
    """Every figure."""
    with part.measurement("in the library"):
        figures = {"library_samples_per_s": statistics.median([await library_rate() for _ in range(ROUNDS)])}
    with part.measurement("each built-in reward"):
        figures |= await builtin_figures()
    with part.measurement("beside a reward that hangs"):
        figures |= await hanging_figures()
    with part.measurement("over HTTP"):
        figures |= await http_figures()
    with part.measurement("start of Ray"):
        start_ray()
    with part.measurement("through the actor"):
        return figures | await actor_figures()


def main() -> int:
    """Measures, prints, and checks when asked to."""
    arguments = parser_of(__doc__, minutes=MINUTES).parse_args()
    with boxed("reward", minutes=arguments.minutes) as part:
        figures = asyncio.run(measure(part))
    missed = [target.figure for target in TARGETS if not target.is_met(figures)]
    targets = {t.figure: f"{'<=' if t.is_most else '>='} {t.bound:g}" for t in TARGETS}
    print(json.dumps({"figures": figures, "targets": targets, "missed": missed}, indent=1))
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
