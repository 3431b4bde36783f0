"""A job of the installed wheel, submitted with a token: a reward actor of the user's, engines on two nodes."""

import importlib.util
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from learner.ledger import check_ledger
from learner.records.record import publish_failures, read_samples, sample_file
from tests.e2e.cluster import PACKAGES, Cluster, install_wheel, site_packages
from tests.e2e.support import lines_of, write_recipe

NUM_STEPS = 4
MY_REWARDS = '''
import ray
from reward.request import RewardResult


class Variety:
    """A state that is made once, in the actor."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, completion, label):
        value = self.scale * len(set(completion)) / (1 + len(completion)) + (label in completion)
        return RewardResult(value=value, facts={"is_in_ray": float(ray.is_initialized())})


def brevity(completion, label):
    return 0.5 if len(completion) < 40 else 0.25
'''
MORE = """
reward:
  rewards:
    - {type: builtin, name: format_r1omni}
    - {type: actor, name: variety, entrypoint: 'my_rewards:Variety', options: {scale: 0.7}, num_cpus: 0}
    - {type: python, name: brevity, entrypoint: 'my_rewards:brevity'}
evaluation: {policies: []}
"""
SETTINGS = (
    *("--sft.steps", "0", "--learner.steps", str(NUM_STEPS), "--learner.checkpoint.every_steps", str(NUM_STEPS)),
    # ranks, rewards and a media task take 1.3 of the head's two CPUs: one engine of half a CPU fits beside them
    *("--rollout.num_engines", "2", "--rollout.num_cpus", "0.5"),
)
WITNESS = """
import os, sys


class Witness:
    seen = set()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        package, _, module = name.partition(".")
        if module and package in {packages} and package not in cls.seen:
            cls.seen.add(package)
            line = package, sys.modules[package].__file__, os.environ.get("RAY_RAYLET_PID", "none")
            with open({log!r}, "a") as file:
                file.write(" ".join(line) + "\\n")


sys.meta_path.insert(0, Witness)
"""
"""Notes in every process from where a package of ours came, and the node (by its raylet) that the process is on."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel, whose processes note from where they import."""
    folder = tmp_path_factory.mktemp("installed")
    made = install_wheel(folder)
    packages = site_packages(made)
    (packages / "witness.py").write_text(WITNESS.format(packages=PACKAGES, log=str(folder / "imports")))
    (packages / "witness.pth").write_text("import witness\n")
    return made


@pytest.fixture
def cluster(python: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes; the second has room for one engine alone."""
    (tmp_path / "cluster").mkdir()
    made = Cluster(python, tmp_path / "cluster", num_cpus=2)
    try:
        made.add_node(num_cpus=1)
        yield made
    finally:
        made.end()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder that holds a configuration and rewards, and nothing else."""
    folder = tmp_path / "work"
    folder.mkdir()
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=0, num_train=4, num_validation=0, num_heldout=0)
    corpus = write_synthetic_corpus(tmp_path / "corpus", sizes)
    write_recipe(folder / "my.yaml", root=Path('""'), corpus=corpus, more=MORE)
    (folder / "my_rewards.py").write_text(MY_REWARDS)
    return folder


def test_a_job_of_the_wheel_trains_with_a_users_actor_reward_and_engines_on_two_nodes(
    python: Path, cluster: Cluster, work: Path
) -> None:
    folder = Path(cluster.env["OMNI_RLVR_RUNS"]) / "mine"
    command = ("python", "-m", "learner.main", "--config", "my.yaml", "--run.name", "mine", *SETTINGS)
    refused = cluster.submit(work, *command, job="without-token", RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
    assert "Unauthorized" in refused.stdout + refused.stderr
    job = f"job-{uuid.uuid4().hex[:6]}"
    done = cluster.submit(work, *command, job=job)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    jobs = cluster.job(work, "list").stdout
    assert "JobStatus.SUCCEEDED" in jobs
    assert "without-token" not in jobs
    check_engines(folder, done.stdout)
    check_rewards(folder, my_rewards(work / "my_rewards.py"))
    check_imports(python)


def check_engines(folder: Path, said: str) -> None:
    """One engine on each node; both answered, and followed every publish."""
    assert "engine-1 runs on node" in said
    assert "engine-0 runs on node" not in said
    lines = lines_of(folder / "metrics.jsonl")
    assert [line["publish/version"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        for engine in ("engine-0", "engine-1"):
            assert line[f"publish/canary/{engine}/max"] <= line["publish/canary/tolerance"]
    summary = json.loads((folder / "summary.json").read_text())
    found = (summary["grpo_steps"], summary["publishes"], summary["rehearsals"], summary["canary_failures"])
    assert found == (NUM_STEPS, NUM_STEPS, 2, 0)
    assert summary["logprob_diff_max"] < 1e-3
    assert publish_failures(folder) == []
    assert check_ledger(folder / "ledger.jsonl").fates == {"trained": 4 * NUM_STEPS}
    assert check_ledger(folder / "ledger.jsonl").faults == ()


def check_rewards(folder: Path, mine: Any) -> None:
    """The values are those that the user's code gives for the same texts."""
    variety = mine.Variety(scale=0.7)
    for step, line in enumerate(lines_of(folder / "metrics.jsonl"), start=1):
        samples = read_samples(sample_file(folder, step))
        assert len(samples) == 4 * 4
        assert {sample["engine"] for sample in samples} == {"engine-0", "engine-1"}
        for sample in samples:
            # the engine had the weights that the publish before the step sent
            assert {span["version"] for span in sample["version_spans"]} == {step - 1}
            assert sample["breakdown"] == {
                "format_r1omni": 0.0 if sample["breakdown"]["format_r1omni"] == 0.0 else 1.0,
                "variety": pytest.approx(variety(sample["text"], sample["label"]).value),
                "brevity": mine.brevity(sample["text"], sample["label"]),
            }
            assert sample["reward"] == pytest.approx(sum(sample["breakdown"].values()))
            assert sample["facts"]["variety/is_in_ray"] == 1.0
        for name in ("variety", "brevity"):
            assert line[f"reward/{name}/mean"] == pytest.approx(fmean(s["breakdown"][name] for s in samples))
        assert len({sample["breakdown"]["variety"] for sample in samples}) > 1


def check_imports(python: Path) -> None:
    """Every process of both nodes had our packages from the wheel."""
    imports = [line.split() for line in (python.parents[2] / "imports").read_text().splitlines()]
    assert {package for package, _, _ in imports} == set(PACKAGES)
    assert {Path(file).parents[1] for _, file, _ in imports} == {site_packages(python)}
    # the engines' processes are those of two raylets; the job's own process has none
    assert len({raylet for package, _, raylet in imports if package == "rollout"} - {"none"}) == 2


def my_rewards(path: Path) -> Any:
    """The user's module."""
    spec = importlib.util.spec_from_file_location("my_rewards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
