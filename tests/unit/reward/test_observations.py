"""What a step's metrics say of each reward."""

from common.types import Failure, Score
from reward.observations import Observations
from reward.service import GroupReport


def test_latency_errors_and_absences_are_of_groups_and_completions() -> None:
    observed = Observations()
    score = Score(total=1.0, breakdown={"a": 1.0})
    observed.add(GroupReport(scores=[score] * 4, seconds={"a": 0.5, "b": 2.0}, left_out=("b",)), 4)
    failed = Failure(stage="reward", reason="b-error", detail="")
    observed.add(GroupReport(scores=failed, seconds={"a": 1.5, "b": 4.0}, num_faults={"b": 3}), 2)
    observed.add_lost()
    assert observed.take() == {
        "reward/lost_rate": 1 / 3,
        "reward/a/latency_s": 1.0,
        "reward/a/error_rate": 0.0,
        "reward/a/left_out_rate": 0.0,
        "reward/b/latency_s": 3.0,
        "reward/b/error_rate": 0.5,
        "reward/b/left_out_rate": 0.5,
    }
    assert observed.take() == {}
