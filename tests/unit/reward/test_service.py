"""The service with rewards of the user's in real processes: whatever they do is theirs alone, and is data."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

import reward.validation
from common.config.reward import BuiltinRewardConfig, HttpRewardConfig, PythonRewardConfig, RewardConfig, RewardKind
from common.errors import ConfigError
from common.types import Failure
from learner.ledger import Ledger, read_ledger
from learner.records.record import read_samples, write_samples
from reward.request import RewardRequest
from reward.service import GroupReport, RewardService
from reward.validation import check_rewards
from tests.support.builders import make_draw, make_group, make_request

ROOT = Path(__file__).parents[3]
FORMAT = BuiltinRewardConfig(type="builtin", name="format_r1omni")


def python(name: str, **settings: Any) -> PythonRewardConfig:
    """A reward of `tests/support/reward/user.py`."""
    return PythonRewardConfig(
        **{
            "type": "python",
            "name": name.lower(),
            "entrypoint": f"tests.support.reward.user:{name}",
            **settings,
        }
    )


def group(label: str = "happy", *, texts: Sequence[str] = ("a", "bb")) -> list[RewardRequest]:
    """One per text."""
    return [make_request(text, label=label) for text in texts]


def reports(*entries: RewardKind, groups: Sequence[Sequence[RewardRequest]]) -> list[GroupReport]:
    """All groups at once; no process is left."""

    async def ask() -> list[GroupReport]:
        service = RewardService(RewardConfig(rewards=entries))
        try:
            await service.start()
            return await asyncio.gather(*(service.score_requests(requests) for requests in groups))
        finally:
            service.close()

    return asyncio.run(ask())


def totals(report: GroupReport) -> list[float]:
    """The sums of a group that was scored."""
    assert isinstance(report.scores, list), report.scores
    return [score.total for score in report.scores]


def failure(report: GroupReport) -> Failure:
    """Why a group has no score."""
    assert isinstance(report.scores, Failure)
    assert report.scores.stage == "reward"
    return report.scores


def test_rewards_here_and_elsewhere_are_summed_in_the_completions_order() -> None:
    texts = ["a", "<think>x</think><answer>happy</answer>", "ccc"]
    (got,) = reports(FORMAT, python("good", weight=0.5), groups=[group(texts=texts)])
    assert totals(got) == [0.5, 1.0 + 0.5 * len(texts[1]), 1.5]
    assert isinstance(got.scores, list)
    assert dict(got.scores[1].breakdown) == {"format_r1omni": 1.0, "good": float(len(texts[1]))}
    assert got.seconds.keys() == {"format_r1omni", "good"}


@pytest.mark.parametrize(
    ("name", "reason", "told"),
    [
        ("failing", "failing-error", "ValueError: no fear"),
        ("leaving", "leaving-error", "SystemExit: 3"),
        ("hungry", "hungry-error", "MemoryError"),
        ("deadly", "deadly-died", "its process ended with exit code 3 during the call"),
        ("crashing", "crashing-died", "its process was ended by SIGSEGV during the call"),
        ("sleeping", "sleeping-deadline", "1.5 s passed; it was at"),
        ("stuck", "stuck-deadline", "in stuck"),
    ],
)
def test_whatever_a_reward_does_only_its_own_group_fails(name: str, reason: str, told: str) -> None:
    entry = python(name, deadline_s=1.5, max_retries=1, max_memory_gib=1.0)
    bad, *others = reports(FORMAT, entry, groups=[group("fear"), group(), group("sad")])
    assert failure(bad).reason == reason
    assert told in failure(bad).detail
    assert "reward/user.py" in failure(bad).detail or name == "deadly"
    assert [totals(other) for other in others] == [[1.0, 1.0], [1.0, 1.0]]
    assert bad.num_faults[name] >= 1


@pytest.mark.long
def test_who_is_stuck_keeps_nobody_from_their_turn() -> None:
    # one process, and its deadline is longer than everything else
    entry = python("sleeping", deadline_s=12.0, num_workers=1)

    async def ask() -> tuple[float, float]:
        service = RewardService(RewardConfig(rewards=(entry,)))
        await service.start()
        started = time.monotonic()
        hanging = asyncio.create_task(service.score_requests(group("fear", texts=["a"])))
        await asyncio.sleep(0)
        others = await asyncio.gather(*(service.score_requests(group()) for _ in range(5)))
        others_s = time.monotonic() - started
        assert [totals(other) for other in others] == [[1.0, 1.0]] * 5
        assert not hanging.done()
        assert failure(await hanging).reason == "sleeping-deadline"
        service.close()
        return others_s, time.monotonic() - started

    others_s, all_s = asyncio.run(ask())
    assert others_s < 12.0 <= all_s


def test_a_group_that_hangs_altogether_takes_one_deadline() -> None:
    started = time.monotonic()
    (got,) = reports(python("sleeping", deadline_s=2.0, max_retries=5), groups=[group("fear", texts=["a"] * 8)])
    assert failure(got).reason == "sleeping-deadline"
    # the second in the place of the first that is stuck may be at it by then; eight in turn would take 16 s
    assert time.monotonic() - started < 12.0


def test_a_reward_that_fails_at_first_is_asked_again_after_waits_that_double(tmp_path: Path) -> None:
    (got,) = reports(python("flaky", max_retries=2), groups=[group(texts=[str(tmp_path / "asked")])])
    assert totals(got) == [1.0]
    first, second, third = map(float, (tmp_path / "asked").read_text().split())
    assert second - first >= 0.05
    assert third - second >= 0.1


def test_it_is_asked_no_more_often_than_allowed(tmp_path: Path) -> None:
    (got,) = reports(python("flaky", max_retries=1), groups=[group(texts=[str(tmp_path / "asked")])])
    assert failure(got).reason == "flaky-error"
    assert len((tmp_path / "asked").read_text().split()) == 2


def test_a_process_that_is_killed_is_replaced_and_its_completion_asked_again(tmp_path: Path) -> None:
    (got,) = reports(python("suicidal"), groups=[group(texts=[str(tmp_path / "a"), str(tmp_path / "b")])])
    assert totals(got) == [1.0, 1.0]


def test_after_a_memory_error_the_process_is_another() -> None:
    hungry = python("hungry", max_retries=0, max_memory_gib=1.0)

    async def ask() -> tuple[set[int], set[int]]:
        service = RewardService(RewardConfig(rewards=(hungry,)))
        await service.start()
        before = children()
        assert failure(await service.score_requests(group("fear"))).reason == "hungry-error"
        assert totals(await service.score_requests(group())) == [1.0, 1.0]
        after = children()
        service.close()
        return before, after

    before, after = asyncio.run(ask())
    assert before
    assert not before & after


def children() -> set[int]:
    """Processes of rewards that this one has started and that live."""
    found = psutil.Process().children()
    return {
        p.pid
        for p in found
        if p.status() != psutil.STATUS_ZOMBIE and "reward.hosts.worker" in " ".join(p.cmdline())
    }


def test_processes_end_with_the_service() -> None:
    reports(python("good", num_workers=2), groups=[group()])
    deadline = time.monotonic() + 30
    while children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_processes_end_with_who_started_them_even_where_they_are_stuck(tmp_path: Path) -> None:
    text = tmp_path / "pid"
    # not a fork of this process: libraries' threads would be missing in it, and whoever waits for one hangs
    code = "from tests.unit.reward.test_service import group, python, reports; "
    code += f"reports(python('telling'), groups=[group(texts=[{str(text)!r}])])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL) as parent:
        while not (text.exists() and text.read_text()):
            assert parent.poll() is None
            time.sleep(0.01)
        worker = psutil.Process(int(text.read_text()))
        parent.kill()
    worker.wait(timeout=30)


def test_a_reward_may_print_where_errors_go(capfd: pytest.CaptureFixture[str]) -> None:
    (got,) = reports(python("printing"), groups=[group()])
    assert totals(got) == [1.0, 1.0]
    seen = capfd.readouterr()
    # the output of a command is for programs
    assert seen.out == ""
    assert "a line on the screen" in seen.err
    assert "a line of a child" in seen.err


def test_async_code_that_is_given_up_is_told(tmp_path: Path) -> None:
    told = tmp_path / "told"

    async def ask() -> None:
        service = RewardService(RewardConfig(rewards=(python("mourning", deadline_s=1.0),)))
        got = await service.score_requests(group(texts=[str(told)]))
        assert failure(got).reason == "mourning-deadline"
        while not told.exists():  # noqa: ASYNC110 - told from another process
            await asyncio.sleep(0.01)
        service.close()

    asyncio.run(ask())


def test_a_class_keeps_its_state_within_a_process() -> None:
    (got,) = reports(python("Weighing", options={"factor": 2.0}), groups=[group()])
    assert sorted(totals(got)) == [2.0, 4.0]


def test_as_many_processes_as_configured_work_beside_each_other() -> None:
    entry = python("process_id", num_workers=2)
    got = reports(entry, groups=[group(texts=["a"] * 20)])
    assert len(set(totals(got[0]))) == 2


def test_async_rewards_are_asked_about_many_completions_at_a_time_in_one_process() -> None:
    bad, *others = reports(
        python("patient", deadline_s=3.0, max_concurrency=64), groups=[group("fear"), *[group()] * 10]
    )
    assert failure(bad).reason == "patient-deadline"
    # nobody was interrupted when it was given up: the process is the same
    assert len({total for other in others for total in totals(other)}) == 1


@pytest.mark.long
def test_async_code_that_holds_its_event_loop_is_ended_and_the_others_are_asked_again() -> None:
    entry = python("blocking", deadline_s=2.0)
    bad, *others = reports(entry, groups=[group("fear", texts=["a"]), group(), group()])
    assert failure(bad).reason == "blocking-deadline"
    assert [totals(other) for other in others] == [[1.0, 1.0]] * 2


def test_calls_cancelled_beside_one_that_blocks_its_event_loop_fail_no_other_group() -> None:
    async def ask() -> list[GroupReport]:
        service = RewardService(RewardConfig(rewards=(python("blocking", deadline_s=30.0),)))
        await service.start()
        hanging = [asyncio.create_task(service.score_requests(group("fear", texts=["a"]))) for _ in range(4)]
        # long enough to count as slow
        await asyncio.sleep(3.5)
        for task in hanging[:3]:
            task.cancel()
        async with asyncio.timeout(28):
            good = [await service.score_requests(group(texts=["a"])) for _ in range(3)]
        hanging[3].cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        service.close()
        return good

    assert [totals(report) for report in asyncio.run(ask())] == [[1.0]] * 3


@pytest.mark.parametrize(
    ("name", "reason"), [("async_leaving", "async_leaving-error"), ("async_deadly", "async_deadly-died")]
)
def test_async_code_that_ends_its_process_fails_nobody_else(name: str, reason: str) -> None:
    # no attempt is to spare: whoever was beside it is asked again all the same
    bad, *others = reports(python(name, max_retries=0), groups=[group("fear", texts=["a"]), group(), group()])
    assert failure(bad).reason == reason
    assert [totals(other) for other in others] == [[1.0, 1.0]] * 2


def test_many_groups_that_hang_keep_none_that_does_not_for_a_deadline() -> None:
    async def ask() -> bool:
        service = RewardService(RewardConfig(rewards=(python("sleeping", deadline_s=20.0),)))
        await service.start()
        hanging = [asyncio.create_task(service.score_requests(group("fear"))) for _ in range(5)]
        await asyncio.sleep(0)
        assert totals(await service.score_requests(group())) == [1.0, 1.0]
        is_any_done = any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        service.close()
        return is_any_done

    # one process, and each of the five takes its deadline
    assert not asyncio.run(ask())


def test_a_group_over_the_services_deadline_tells_who_was_not_through_and_leaves_that_one_out_where_it_may() -> (
    None
):
    async def ask(**settings: Any) -> GroupReport:
        entries = (FORMAT, python("good"), python("sleeping", deadline_s=60.0, **settings))
        # shorter than the reward's own: what waits for turns come to
        service = RewardService(RewardConfig(rewards=entries).model_copy(update={"deadline_s": 4.0}))
        await service.start()
        try:
            return await service.score_requests(group("fear"))
        finally:
            service.close()

    async def ask_all() -> list[GroupReport]:
        return await asyncio.gather(ask(), ask(on_error="stop_run"), ask(on_error="skip_reward_for_group"))

    bad, stopping, left = asyncio.run(ask_all())
    assert (failure(bad).reason, bad.num_faults) == ("sleeping-deadline", {"sleeping": 2})
    assert failure(bad).detail.startswith("reward.deadline_s=4 s passed")
    assert not stopping.stops_run
    assert (totals(left), left.left_out) == ([1.0, 2.0], ("sleeping",))


@pytest.mark.parametrize("is_one_group", [True, False])
def test_built_in_rewards_let_others_of_the_event_loop_in_between(
    monkeypatch: pytest.MonkeyPatch, is_one_group: bool
) -> None:
    """Each completion takes longer than a turn: others have as many turns as there are completions."""
    monkeypatch.setattr("reward.service.TURN_S", 0.0)
    turns = 0
    # one group, or each its own
    groups = [group(texts=["a"] * 50)] if is_one_group else [group(texts=["a"]) for _ in range(50)]

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask() -> int:
        counting = asyncio.create_task(count())
        service = RewardService(RewardConfig(rewards=(FORMAT,)))
        for requests in groups:
            await service.score_requests(requests)
        counting.cancel()
        return turns

    assert asyncio.run(ask()) >= 50


def test_built_in_rewards_end_at_the_services_deadline() -> None:
    async def ask() -> GroupReport:
        service = RewardService(RewardConfig(rewards=(FORMAT,)).model_copy(update={"deadline_s": 0.0}))
        return await service.score_requests(group())

    assert failure(asyncio.run(ask())).reason == "format_r1omni-deadline"


def test_a_reward_of_whole_groups_compares_within_each() -> None:
    first, second, bad = reports(
        python("averaged"), groups=[group(texts=["a", "bbb"]), group(texts=["cc"]), group("fear")]
    )
    assert (totals(first), totals(second)) == ([0.5, 1.5], [1.0])
    assert (failure(bad).reason, failure(bad).detail) == (
        "averaged-length",
        "a reward must return one value per completion, got 1 for 2",
    )


def test_what_a_reward_tells_can_be_recorded_though_it_is_no_unicode(tmp_path: Path) -> None:
    bad, good = reports(python("surrogate", max_retries=0), groups=[group("fear"), group()])
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.failed(make_draw(), failure(bad))
    ledger.commit()
    assert read_ledger(ledger.path)[-1]["detail"].endswith("ValueError: a \\udc80 half")
    assert isinstance(good.scores, list)
    made = make_group([1.0, 1.0])
    samples = tuple(replace(sample, score=score) for sample, score in zip(made.samples, good.scores, strict=True))
    write_samples(tmp_path / "samples.jsonl.gz", [replace(made, samples=samples)])
    assert read_samples(tmp_path / "samples.jsonl.gz")[0]["details"] == {"surrogate": "a \\udc80 half"}


def test_a_reward_may_be_left_out_where_it_fails_and_never_counts_as_0() -> None:
    entry = python("failing", on_error="skip_reward_for_group", max_retries=0)
    bad, good = reports(FORMAT, entry, groups=[group("fear"), group()])
    assert (totals(bad), bad.left_out) == ([0.0, 0.0], ("failing",))
    assert isinstance(bad.scores, list)
    assert all(score.breakdown.keys() == {"format_r1omni"} for score in bad.scores)
    assert "ValueError: no fear" in bad.faults["failing"].detail
    assert (totals(good), good.left_out) == ([1.0, 1.0], ())


def test_a_reward_that_does_not_apply_is_left_out_for_the_group() -> None:
    none, some = reports(FORMAT, python("inapplicable"), groups=[group("fear"), group()])
    assert (totals(none), none.left_out, none.num_faults) == ([0.0, 0.0], ("inapplicable",), {})
    assert (totals(some), some.left_out) == ([1.0, 1.0], ())


def test_a_reward_may_stop_the_run() -> None:
    stopping = python("failing", on_error="stop_run", max_retries=0)
    bad, good = reports(python("averaged"), stopping, groups=[group("fear"), group()])
    assert bad.stops_run
    # it is named before another that fails too
    assert failure(bad).reason == "failing-error"
    assert not good.stops_run


# -- what is refused before anything starts -------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (BuiltinRewardConfig(type="builtin", name="acuracy_r1omni"), "did you mean accuracy_r1omni?"),
        (
            BuiltinRewardConfig(type="builtin", name="format_r1omni", options={"a": 1}),
            "must be an option of the reward, got",
        ),
        (python("no_such"), "nothing of this name"),
        (python("Weighing", options={"wrong": 1}), "unexpected keyword argument 'wrong'"),
        (python("good", entrypoint="os:abort"), "os:abort"),
        (
            HttpRewardConfig(type="http", name="far", url="https://far.example", token_env="NO_SUCH_TOKEN"),
            "far.token_env must name a variable that holds printable ASCII, got nothing in $NO_SUCH_TOKEN",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(entry: RewardKind, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rewards(RewardConfig(rewards=(entry,)))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gate", [{"requires": "length"}, {"caps": {"length": 0.2}}])
def test_a_penalty_is_no_gate(gate: dict[str, Any]) -> None:
    gated = FORMAT.model_copy(update=gate)
    config = RewardConfig(rewards=(gated, BuiltinRewardConfig(type="builtin", name="length")))
    with pytest.raises(ConfigError, match="got 'length', a penalty, which is 0 at its best"):
        check_rewards(config)


def test_a_gate_is_refused_where_0_is_the_mean() -> None:
    with pytest.raises(ValueError, match=r"good.requires must not be given with normalise=group"):
        python("good", normalise="group", requires="format_r1omni")


def test_a_built_in_reward_that_needs_engines_is_refused_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Needy:
        needs_engines = True

    monkeypatch.setattr(reward.validation, "BUILTIN", {"gain": Needy})
    with pytest.raises(ConfigError, match="gain must have rollout engines"):
        check_rewards(RewardConfig(rewards=(BuiltinRewardConfig(type="builtin", name="gain"),)))


def test_a_built_in_reward_that_waits_for_others_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Judge:
        async def ask(self, request: RewardRequest) -> float:
            await asyncio.sleep(600 if request.label == "fear" else 0)
            return 2.0

    monkeypatch.setattr(reward.validation, "BUILTIN", {"judge": Judge})
    entry = BuiltinRewardConfig(type="builtin", name="judge", deadline_s=1.0)
    bad, good = reports(entry, groups=[group("fear"), group()])
    assert failure(bad).reason == "judge-deadline"
    assert totals(good) == [2.0, 2.0]
    assert good.seconds["judge"] < bad.seconds["judge"]


def test_a_module_that_ends_its_process_ends_only_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "abrupt_reward.py").write_text("import os\nos._exit(7)\n")
    entry = python("good", entrypoint="abrupt_reward:good")
    with pytest.raises(ConfigError, match="got exit code 7 for 'abrupt_reward:good'"):
        check_rewards(RewardConfig(rewards=(entry,)))


def test_a_class_that_cannot_be_made_is_refused_when_the_service_starts() -> None:
    with pytest.raises(ConfigError, match="FileNotFoundError: no weights"):
        reports(python("Unwilling"), groups=[])


def test_what_can_be_is_accepted() -> None:
    check_rewards(RewardConfig(rewards=(FORMAT, python("good"), python("Unwilling"), python("averaged"))))
