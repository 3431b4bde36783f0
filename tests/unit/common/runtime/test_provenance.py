"""Which sources a process runs, and what happens where two differ."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ClusterError
from common.runtime.provenance import PACKAGES, require_own_packages, require_same_sources, sources

REPOSITORY = Path(__file__).parents[4]


def test_every_source_file_of_our_packages_is_listed() -> None:
    found = set(sources()) - {"version"}
    expected = {str(p.relative_to(REPOSITORY)) for name in PACKAGES for p in (REPOSITORY / name).rglob("*.py")}
    assert found == expected
    assert "learner/loops/grpo_loop.py" in found


def test_the_same_sources_pass() -> None:
    require_own_packages()
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


def test_a_foreign_package_of_our_name_stops_with_its_path(tmp_path: Path) -> None:
    foreign = tmp_path / "reward"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import common\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from common.errors import ConfigError\n"
        "from common.runtime.provenance import require_own_packages\n"
        "try:\n    require_own_packages()\nexcept ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"got {foreign}" in done.stdout
    assert "'reward'" in done.stdout
