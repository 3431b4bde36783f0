"""Counts of vLLM's steps: idle and paused time is no step."""

import pickle

from rollout.engine_stats import EngineStats, Step, StepCounter

STEP = Step(num_running=2, num_waiting=1, kv_use=0.25, num_preempted=1)


def test_the_statistics_survive_pickling() -> None:
    stats = EngineStats(
        num_steps=3, num_running=2, num_waiting=1, kv_use=0.5, num_preemptions=4, longest_step_s=1.5
    )
    assert pickle.loads(pickle.dumps(stats)) == stats


def test_steps_and_preemptions_add_up() -> None:
    counter = StepCounter()
    for now_s in (1.0, 2.0, 3.0):
        counter.ended(now_s, STEP, is_busy=True)
    assert (counter.num_steps, counter.num_preemptions, counter.last) == (3, 3, STEP)


def test_the_first_step_counts_from_the_work_that_it_was_given() -> None:
    counter = StepCounter()
    counter.began(10.0)
    # more work does not begin the step again
    counter.began(12.0)
    counter.ended(14.0, STEP, is_busy=True)
    counter.ended(15.0, STEP, is_busy=True)
    assert counter.longest_step_s == 4.0


def test_idle_time_is_no_step() -> None:
    counter = StepCounter()
    counter.began(0.0)
    counter.ended(1.0, STEP, is_busy=False)
    counter.began(100.0)
    counter.ended(102.0, STEP, is_busy=False)
    assert counter.longest_step_s == 2.0


def test_the_time_after_an_abort_of_all_work_is_no_step() -> None:
    counter = StepCounter()
    counter.began(0.0)
    counter.stopped()
    counter.began(100.0)
    counter.ended(101.0, STEP, is_busy=False)
    assert counter.longest_step_s == 1.0


def test_paused_time_is_no_step() -> None:
    counter = StepCounter()
    counter.began(0.0)
    counter.ended(1.0, STEP, is_busy=True)
    counter.paused()
    # the last step before the pause, read late, and a request that arrives meanwhile
    counter.ended(2.0, STEP, is_busy=True)
    counter.began(3.0)
    counter.resumed(100.0, is_busy=True)
    counter.ended(103.0, STEP, is_busy=False)
    assert counter.longest_step_s == 3.0


def test_a_resumed_engine_without_work_takes_no_step() -> None:
    counter = StepCounter()
    counter.paused()
    counter.resumed(1.0, is_busy=False)
    counter.began(100.0)
    counter.ended(101.0, STEP, is_busy=False)
    assert counter.longest_step_s == 1.0
