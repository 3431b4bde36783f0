"""The placement plan against a cluster."""

import pytest

from common.config.load import load_config
from common.errors import ClusterError
from deploy.checks.placement import PlanLine, format_plan, place_engines, placement_plan, require_room, shortages


def plan(*overrides: str) -> list[PlanLine]:
    """Of the defaults but for these."""
    return placement_plan(load_config(None, overrides))


def test_a_plan_lists_everything_that_takes_room() -> None:
    got = plan(
        "--rollout.num_engines=3", "--rollout.num_gpus=1", "--learner.num_ranks=2", "--learner.num_threads=4"
    )
    assert [(p.actor, p.count, p.num_cpus, p.num_gpus, p.num_threads) for p in got] == [
        ("rollout engine", 3, 0.5, 1.0, 1),
        ("learner rank", 2, 0.5, 0.0, 4),
        ("reward service", 1, 0.1, 0, 1),
        ("media task", 1, 0.2, 0, 1),
    ]


def test_rewards_that_are_actors_take_room() -> None:
    judge = "{type: actor, name: judge, entrypoint: 'a:B', num_cpus: 2, num_gpus: 0.5, replicas: 3}"
    got = plan(f"--reward.rewards=[{{type: builtin, name: format_r1omni}}, {judge}]")
    assert [(p.actor, p.count, p.num_cpus, p.num_gpus) for p in got][2:4] == [
        ("reward service", 1, 0.1, 0),
        ("reward judge", 3, 2.0, 0.5),
    ]


def test_a_plan_that_fits_to_the_last_fraction_passes() -> None:
    # 0.5 + 0.5 + 0.1 + 0.2, which binary fractions do not add up to exactly
    require_room(plan(), {"CPU": 1.3})
    require_room(plan("--rollout.num_engines=7", "--rollout.num_cpus=0.1"), {"CPU": 1.5, "GPU": 0.0})


def test_too_few_cpus_are_named_with_what_asks_for_them() -> None:
    with pytest.raises(ClusterError) as caught:
        require_room(plan("--rollout.num_engines=4"), {"CPU": 2.0})
    said = str(caught.value)
    assert said.startswith("the plan must fit this node's 2 CPUs, got 2.8")
    assert "4 x rollout engine 0.5, 1 x learner rank 0.5, 1 x reward service 0.1, 1 x media task 0.2" in said
    assert said.endswith("lower *.num_cpus or counts")
    assert "\n" not in said


def test_each_kind_that_lacks_has_a_line() -> None:
    small = {"CPU": 1, "GPU": 1}
    cpus, gpus = shortages(plan("--rollout.num_gpus=2"), small, place="this machine")
    assert cpus.startswith("the plan must fit this machine's 1 CPUs, got 1.3")
    assert gpus.startswith("the plan must fit this machine's 1 GPUs, got 2")
    # 0.5 + 0.5 + 0.1 + 0.2, which binary fractions do not add up to exactly
    assert not list(shortages(plan("--rollout.num_cpus=0.2"), small, place="this machine"))


@pytest.mark.parametrize("resources", [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}])
def test_too_few_gpus_are_named(resources: dict[str, float]) -> None:
    with pytest.raises(ClusterError) as caught:
        require_room(plan("--rollout.num_gpus=1", "--learner.num_gpus=1"), resources)
    said = str(caught.value)
    assert f"this node's {resources.get('GPU', 0):g} GPUs, got 2" in said
    assert said.endswith("lower *.num_gpus or counts")


def test_a_table_has_a_row_for_each_actor() -> None:
    rows = format_plan(plan("--learner.num_ranks=2")).splitlines()
    assert rows[0].split() == ["actor", "count", "CPUs", "GPUs", "threads"]
    assert rows[2].split() == ["learner", "rank", "2", "0.5", "0", "1"]
    assert len(rows) == 5
    # columns stand under their heads
    assert {row.index(cell, 10) for row, cell in zip(rows, ("count", "1", "2", "1", "1"), strict=True)} == {
        rows[0].index("count")
    }


def test_engines_stay_with_the_ranks_while_there_is_room_and_then_go_to_other_nodes() -> None:
    engines = plan(
        "--rollout.num_engines=5", "--rollout.num_gpus=1", "--learner.num_ranks=2", "--learner.num_gpus=1"
    )
    nodes = {"a": {"CPU": 9.0, "GPU": 2.0}, "own": {"CPU": 9.0, "GPU": 4.0}, "b": {"CPU": 9.0, "GPU": 4.0}}
    assert place_engines(engines, driver="own", nodes=nodes) == ["own", "own", "a", "a", "b"]
    # CPUs count as GPUs do
    nodes["a"]["CPU"] = 0.5
    assert place_engines(engines, driver="own", nodes=nodes) == ["own", "own", "a", "b", "b"]


def test_engines_that_fit_no_node_are_refused_with_how_many_did() -> None:
    engines = plan("--rollout.num_engines=3", "--rollout.num_gpus=2", "--learner.num_gpus=1")
    nodes = {"own": {"CPU": 9.0, "GPU": 3.0}, "b": {"CPU": 9.0, "GPU": 3.0}}
    with pytest.raises(ClusterError, match=r"3 engines of 0.5 CPUs and 2 GPUs must fit the 2 nodes .* room for 2"):
        place_engines(engines, driver="own", nodes=nodes)
    with pytest.raises(ClusterError, match="the plan must fit this node's 0 GPUs, got 1"):
        place_engines(engines, driver="own", nodes={**nodes, "own": {"CPU": 9.0}})
    with pytest.raises(ClusterError, match="the plan must fit this node's 3 GPUs, got 7"):
        place_engines(engines, driver="own", nodes={"own": nodes["own"]})
