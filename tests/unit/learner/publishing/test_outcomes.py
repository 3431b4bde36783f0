"""One engine of several fails in a publish: it is lost, the others serve the new version, and others join later."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import LearnerError, PublishError, ReceiveError
from common.types import Failure
from tests.support.clock import run
from tests.support.fakes import FakeEngine
from tests.support.publisher_bench import Bench, complaint

PHASES = ("pause", "start", "update", "finish", "resume", "generate")


def breaks(how: str, phase: str) -> Callable[[FakeEngine], None]:
    """A fault of one engine in a phase."""

    def apply(engine: FakeEngine) -> None:
        setattr(engine, how, phase)

    return apply


FAULTS: dict[str, tuple[Callable[[FakeEngine], None], str]] = {
    f"{how} {phase}": (
        breaks(how, phase),
        f"publish: {'probe' if phase == 'generate' else phase} on engine-1 {text}",
    )
    for how, text in (("fails_on", "failed: no more"), ("hangs_on", "must end within 30 s"))
    for phase in PHASES
} | {
    "loses a tensor": (lambda e: e.lost.add("layer-2.bias"), "receipt on engine-1: layer-2.bias"),
    "ignores a tensor": (lambda e: e.ignored.add("layer-2.bias"), "canary on engine-1 at version 1"),
    "refuses the probe": (
        lambda e: setattr(e, "probe_failure", Failure(stage="rollout", reason="too-long", detail="no room")),
        "publish: the probe on engine-1 failed: no room",
    ),
    "answers the probe late": (
        lambda e: setattr(e, "probe_failure", Failure(stage="rollout", reason="deadline", detail="too late")),
        "publish: probe on engine-1 failed: too late",
    ),
}


def num_tasks() -> int:
    """Tasks beside the current one."""
    return len(asyncio.all_tasks()) - 1


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_fails_is_lost_and_the_others_serve_the_new_version(fault: str) -> None:
    bench = Bench(num_engines=3)
    break_it, reason = FAULTS[fault]
    break_it(bench.engines[1])
    bench.engines[2].slow_on = "update"
    bench.senders.step()

    async def publish() -> Any:
        report = await bench.publisher.publish()
        assert num_tasks() == 0
        return report

    report = run(publish())
    assert set(report.canary) == {"engine-0", "engine-2"}
    assert bench.fleet.serving == ["engine-0", "engine-2"]
    ((lost, why),) = bench.fleet.losses
    assert (lost, why[: len(reason)]) == ("engine-1", reason)
    assert bench.publisher.version == bench.fleet.lifecycle.version == 1
    for engine in (bench.engines[0], bench.engines[2]):
        assert (engine.version, engine.weights) == (1, bench.senders.weights)


@pytest.mark.parametrize("phase", PHASES)
def test_an_engine_that_fails_takes_no_part_in_later_phases(phase: str) -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].fails_on = phase
    bench.publish()
    names = [entry.split()[0] for entry in bench.phases("engine-1")]
    # a probe has two prompts, which are asked at the same time
    assert names[names.index(phase) :] == [phase] * (2 if phase == "generate" else 1)


@pytest.mark.parametrize("how", ["fails_on", "hangs_on"])
@pytest.mark.parametrize("phase", PHASES)
def test_engines_that_all_die_end_no_publish_and_new_ones_are_admitted(how: str, phase: str) -> None:
    bench = Bench(num_engines=2)
    for engine in bench.engines:
        setattr(engine, how, phase)
    report = bench.publish()
    assert (report.version, report.canary) == (1, {})
    assert bench.fleet.serving == []
    assert {engine for engine, _ in bench.fleet.losses} == {"engine-0", "engine-1"}
    admitted = bench.new_engine(1)
    admitted.weights = dict.fromkeys(admitted.weights, 0.5)
    bench.fleet.join(admitted)
    bench.admit()
    assert bench.fleet.serving == ["engine-1"]
    assert (admitted.version, admitted.weights) == (1, bench.senders.weights)
    assert bench.publish().version == 2
    assert bench.fleet.serving == ["engine-1"]


@pytest.mark.parametrize("fault", ["loses a tensor", "ignores a tensor", "refuses the probe"])
@pytest.mark.parametrize("other", ["the same", "dies"])
def test_a_verification_that_no_engine_passes_ends_the_publish(fault: str, other: str) -> None:
    bench = Bench(num_engines=2)
    FAULTS[fault][0](bench.engines[1])
    if other == "dies":
        bench.engines[0].fails_on = "pause"
    else:
        FAULTS[fault][0](bench.engines[0])
    assert complaint(bench).engine in {"engine-0", "engine-1"}
    assert bench.fleet.serving == []
    assert len(bench.fleet.losses) == 2
    assert bench.publisher.version == bench.fleet.lifecycle.version == 0


def test_a_worker_that_refuses_a_bucket_has_failed_a_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    async def refuse(path: str, bucket: int) -> None:
        raise ReceiveError("half a layer")

    monkeypatch.setattr(bench.engine, "receive", refuse)
    error = complaint(bench)
    assert (error.proof, error.engine) == ("update", "engine-0")
    assert "half a layer" in str(error)


@pytest.mark.parametrize("how", ["hangs", "dies"])
@pytest.mark.parametrize("call", ["send_bucket", "score"])
def test_ranks_that_fail_end_the_publish_and_no_engine_serves(
    how: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(num_engines=2)
    bench.engines[1].slow_on = "update"
    run(bench.publisher.start())
    assert bench.fleet.serving == ["engine-0", "engine-1"]

    async def fail(*_: Any, **__: Any) -> Any:
        if how == "hangs":
            await asyncio.Event().wait()
        raise LearnerError("a learner rank died")

    monkeypatch.setattr(bench.senders, call, fail)

    async def publish() -> None:
        with pytest.raises(LearnerError):
            await bench.publisher.publish()
        assert num_tasks() == 0

    run(publish())
    assert bench.fleet.losses == []
    assert bench.fleet.serving == []
    assert bench.publisher.version == bench.fleet.lifecycle.version == 0
    # new ranks take the same engines
    monkeypatch.undo()
    bench.publisher = bench.another()
    run(bench.publisher.start(synchronize=True))
    assert bench.fleet.serving == ["engine-0", "engine-1"]


def test_a_publish_that_is_cancelled_leaves_no_delivery_open() -> None:
    bench = Bench()
    bench.engine.hangs_on = "update"

    async def publish() -> None:
        task = asyncio.create_task(bench.publisher.publish())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

    run(publish())
    assert bench.fleet.serving == []
    bench.engine.hangs_on = None
    assert bench.publish().version == 1
    assert bench.fleet.serving == ["engine-0"]


@pytest.mark.parametrize("phase", [*PHASES, "gather", "score"])
def test_an_engine_that_joins_during_a_publish_serves_nothing_before_it_is_admitted(phase: str) -> None:
    bench = Bench(num_engines=2)
    late = bench.engines[1]
    bench.fleet.lost(late, reason="before")

    def join(entered: str) -> None:
        if entered == phase and late not in bench.fleet.candidates():
            bench.fleet.join(late, is_verified=True)

    bench.shared.on_phase = join
    report = bench.publish()
    assert late in bench.fleet.candidates()
    assert set(report.canary) == {"engine-0"}
    assert bench.fleet.serving == ["engine-0"]
    assert late.version == 0
    bench.admit()
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    assert (late.version, late.weights) == (1, bench.senders.weights)
    assert bench.fleet.losses == [("engine-1", "before")]


def test_engines_that_join_are_admitted_without_the_others() -> None:
    bench = Bench(num_engines=3)
    run(bench.publisher.start())
    bench.publish()
    bench.fleet.lost(bench.engines[1], reason="killed")
    bench.fleet.lost(bench.engines[2], reason="killed")
    before = {e.name: len(bench.phases(e.name)) for e in bench.engines}
    for index, new in enumerate([bench.new_engine(1), bench.new_engine(2)]):
        new.ignored = {"layer-0.bias"} if index else set()
        bench.fleet.join(new)
    bench.admit()
    assert len(bench.phases("engine-0")) == before["engine-0"]
    assert bench.fleet.serving == ["engine-0", "engine-1"]
    assert bench.fleet.losses[2][1].startswith("rehearsal on engine-2 at version 1")
    assert bench.publisher.version == 1
    assert bench.publish().version == 2


@pytest.mark.parametrize("fault", ["loses a tensor", "ignores a tensor", "fails_on start"])
@pytest.mark.parametrize("rehearsal", [True, False])
def test_an_engine_that_cannot_be_admitted_is_lost_and_ends_nothing(fault: str, rehearsal: bool) -> None:
    bench = Bench(rehearsal=rehearsal)
    run(bench.publisher.start())
    bench.fleet.lost(bench.engine, reason="killed")
    joining = bench.new_engine(0)
    FAULTS[fault][0](joining)
    bench.senders.step()
    bench.fleet.join(joining)
    before = dict(bench.senders.weights)
    bench.admit()
    assert bench.fleet.serving == []
    assert [engine for engine, _ in bench.fleet.losses] == ["engine-0"] * 2
    assert bench.senders.weights == before
    assert not bench.fleet.candidates()


def test_in_bfloat16_an_engine_that_is_admitted_first_sets_the_tolerance() -> None:
    bench = Bench(dtype="bfloat16")
    bench.fleet.lost(bench.engine, reason="killed")
    run(bench.publisher.start())
    for noise in (0.3, 0.01):
        joining = bench.new_engine(0)
        joining.noise = noise
        bench.fleet.join(joining)
        bench.admit()
    assert "must move log-probabilities by at most 0.25" in bench.fleet.losses[1][1]
    assert bench.fleet.serving == ["engine-0"]
    assert bench.publisher.canary_tolerance == pytest.approx(0.03)


def test_engines_that_all_fail_a_rehearsal_end_the_start() -> None:
    bench = Bench(num_engines=2)
    for engine in bench.engines:
        engine.ignored = {"layer-1.weight"}
    with pytest.raises(PublishError, match="rehearsal on engine-0"):
        run(bench.publisher.start())
    assert bench.fleet.serving == []


def test_engines_that_all_die_in_a_start_are_admitted_later() -> None:
    bench = Bench(num_engines=2)
    for engine in bench.engines:
        engine.fails_on = "generate"
    assert run(bench.publisher.start()) == {}
    bench.fleet.join(bench.new_engine(0))
    bench.admit()
    assert bench.fleet.serving == ["engine-0"]


def test_a_start_sends_the_true_weights_once_after_the_noise() -> None:
    for rehearsal, transfers in ((True, 2), (False, 1)):
        bench = Bench(num_engines=2, rehearsal=rehearsal)
        run(bench.publisher.start())
        assert [bench.phases(e.name).count("resume") for e in bench.engines] == [transfers] * 2
        assert bench.fleet.serving == ["engine-0", "engine-1"]
