"""Engines on another node than the ranks: two of Ray's nodes on one machine, which share nothing but its disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from tests.e2e.support import start, steps_of, write_recipe

pytestmark = pytest.mark.long


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of two CPUs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()


def test_an_engine_on_another_node_gets_every_publish(cluster: Cluster, tmp_path: Path) -> None:
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=0, num_train=8, num_validation=0, num_heldout=0)
    corpus = write_synthetic_corpus(tmp_path / "corpus", sizes)
    config = write_recipe(tmp_path / "run.yaml", root=tmp_path, corpus=corpus)
    # ranks, rewards and a media task take 1.3 of the job's node
    done = start(
        *("--config", str(config), "--sft.steps", "0", "--evaluation.policies", "[]", "--rollout.num_cpus", "1"),
        RAY_ADDRESS=cluster.address,
        RAY_AUTH_MODE="disabled",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "engine-0 runs on node" in done.stdout
    folder = tmp_path / "test"
    assert steps_of(folder) == [1, 2]
    summary = json.loads((folder / "summary.json").read_text())
    # the proofs are those of an engine beside the ranks
    assert (summary["publishes"], summary["rehearsals"], summary["canary_failures"]) == (2, 1, 0)
    assert summary["logprob_diff_max"] < 1e-3
    assert check_ledger(folder / "ledger.jsonl").faults == ()
    assert not list(Path("/dev/shm").glob("omni-rlvr-engine-*"))
