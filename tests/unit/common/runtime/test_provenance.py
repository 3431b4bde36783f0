"""Which sources a process runs, and what happens where two differ."""

from pathlib import Path

import pytest

from common.errors import ClusterError
from common.runtime.provenance import PACKAGES, require_same_sources, sources

REPOSITORY = Path(__file__).parents[4]


def test_every_source_file_of_our_packages_is_listed() -> None:
    found = set(sources()) - {"version"}
    expected = {str(p.relative_to(REPOSITORY)) for name in PACKAGES for p in (REPOSITORY / name).rglob("*.py")}
    assert found == expected
    assert "learner/loops/grpo_loop.py" in found


def test_the_same_sources_pass() -> None:
    require_same_sources(sources(), sources(), who="engine-0")


@pytest.mark.parametrize("name", ["learner/loops/grpo_loop.py", "version"])
def test_a_difference_stops_with_process_and_file(name: str) -> None:
    with pytest.raises(ClusterError) as caught:
        require_same_sources(sources(), sources() | {name: "0123"}, who="engine-1, worker 0")
    assert "engine-1, worker 0" in str(caught.value)
    assert f"got 0123 for {sources()[name]} in {name}" in str(caught.value)


def test_a_file_that_only_one_process_has_is_a_difference() -> None:
    more = sources() | {"reward/other.py": "0123"}
    with pytest.raises(ClusterError, match=r"reward/other\.py"):
        require_same_sources(sources(), more, who="the reward service")
    with pytest.raises(ClusterError, match=r"reward/other\.py"):
        require_same_sources(more, sources(), who="the reward service")
