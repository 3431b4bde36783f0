"""`ray job submit -- python -m learner.main`, on a cluster started as Ray starts it: with token authentication."""

import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from tests.e2e.cluster import REPOSITORY, Cluster
from tests.e2e.support import steps_of, write_recipe

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of each split."""
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    return write_synthetic_corpus(tmp_path_factory.mktemp("corpus"), sizes)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head node of this environment."""
    made = Cluster(Path(sys.executable), tmp_path_factory.mktemp("cluster"))
    yield made
    made.end()


def recipe(folder: Path, corpus: Path, *, more: str = "") -> Path:
    """`my.yaml` in a directory of the user's own."""
    path = write_recipe(folder / "my.yaml", root=Path("/replaced"), corpus=corpus, more=more)
    path.write_text(path.read_text().replace("root: /replaced", 'root: ""'))
    return path


MAIN = ("python", "-m", "learner.main", "--config")


def test_from_the_repository_a_job_that_is_stopped_goes_on(cluster: Cluster, corpus: Path) -> None:
    name = f"job-{uuid.uuid4().hex[:6]}"
    path = REPOSITORY / f"{name}.yaml"
    folder = Path(cluster.env["OMNI_RLVR_RUNS"]) / name
    arguments = (*MAIN, path.name, "--run.name", name, "--learner.steps", "6")
    try:
        recipe(REPOSITORY, corpus).rename(path)
        assert cluster.submit(REPOSITORY, *arguments, job=name, waits=False).returncode == 0
        deadline = time.monotonic() + 400
        while len(steps_of(folder)) < 3:
            assert time.monotonic() < deadline, "no step was taken"
            time.sleep(0.2)
        cluster.stop(name)
        path.write_text("# another comment\n" + path.read_text())
        done = cluster.submit(REPOSITORY, *arguments, job=f"{name}-again")
    finally:
        path.unlink(missing_ok=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "resumed after step" in done.stdout
    # the job's directory was a copy that Ray deletes; what it wrote is here
    assert steps_of(folder) == [1, 2, 3, 4, 5, 6]
    assert check_ledger(folder / "ledger.jsonl").faults == ()


def test_a_relative_root_is_refused_in_a_job_with_the_reason(cluster: Cluster) -> None:
    done = cluster.submit(REPOSITORY, *MAIN, "deploy/configs/demo.yaml", "--run.root", "runs", job="relative")
    assert done.returncode != 0
    assert "run.root must be absolute under `ray job submit`" in done.stdout + done.stderr
