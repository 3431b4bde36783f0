"""From corpora to an evaluated model: the commands of docs/recipe.md, over small trees in the real layouts.

The configurations are those that ship; what makes them fit two cores, a tiny model and a dozen clips is overridden.
"""

import json
from pathlib import Path

import pytest

from common.evaluation.controls import CONDITIONS
from common.models.qwen2_5_omni.tiny import build_tiny_checkpoint
from tests.e2e.support import lines_of, start
from tests.support.media.corpora import put_dfew, put_mafw, put_ovmerd

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
CONFIGS = "deploy/configs"
SMALL = (
    *("--model.dtype", "float32", "--data.max_pixels", "12544", "--data.max_audio_s", "4"),
    *(
        "--learner.num_ranks",
        "1",
        "--learner.zero_stage",
        "2",
        "--learner.num_cpus",
        "0.5",
        "--learner.num_gpus",
        "0",
    ),
    *("--learner.reference", "resident", "--rollout.num_engines", "1", "--rollout.num_cpus", "0.5"),
    *("--rollout.num_gpus", "0", "--rollout.max_model_len", "1024", "--rollout.max_num_seqs", "16"),
    *("--rollout.kv_cache_gib", "0.25", "--rollout.sampling.max_tokens", "24", "--rollout.group_size", "4"),
)
MAFW = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety")


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DFEW's second fold, MAFW's first, OV-MERD, and a tiny model."""
    root = tmp_path_factory.mktemp("downloads")
    put_dfew(root / "DFEW", train={n: n for n in range(1, 8)}, test={n + 7: n for n in range(1, 8)}, fold=2)
    train = [f"{n:05}.mp4 {label}" for n, label in enumerate(MAFW, start=1)]
    test = [f"{n:05}.mp4 {label}" for n, label in enumerate(MAFW, start=101)]
    put_mafw(root / "MAFW", train=train, test=test)
    put_ovmerd(root / "MER2025", 6)
    build_tiny_checkpoint(root / "model", seed=0)
    return root


def run(program: str, *arguments: str, code: int = 0) -> str:
    """Output of a command of docs/recipe.md."""
    done = start(*arguments, program=program)
    assert done.returncode == code, f"{program} {arguments}: {done.stdout[-1500:]}{done.stderr[-2500:]}"
    return done.stdout


def mix(root: Path) -> str:
    """As r1_omni_grpo.yaml has it, from where the trees are."""
    sources = f"{{type: dfew, root: {root}/DFEW, fold: 2}}, {{type: mafw, root: {root}/MAFW, fold: 1}}"
    return f"{{type: mix, sources: [{sources}]}}"


def test_the_way_from_downloads_to_an_evaluated_model(downloads: Path) -> None:
    for name, fold, counts in (("dfew", "2", 14), ("mafw", "1", 18)):
        tree = ("--format", name, "--root", str(downloads / name.upper()), "--fold", fold)
        # lists as short as these are told
        found = json.loads(run("common.datasets", "inspect", *tree, "--json", code=1))
        assert (found["counts"]["total"], found["media"]) == (counts, {"list-shorter-than-published": 2})

    cold_start = downloads / "cold_start.json"
    emer = ("--format", "emer", "--root", str(downloads / "MER2025"), "--taxonomy", "r1_omni", "--count", "6")
    emer = (*emer, "--set", "outside_taxonomy=drop")
    run("common.datasets", "make-cold-start", *emer, "--out", str(cold_start))

    runs = ("--run.root", str(downloads / "runs"))
    source = f"{{type: r1_omni, path: {cold_start}}}"
    sources = ("--data.source", source, "--data.cold_start", source, "--sft.examples_per_step", "6")
    command = ("--config", f"{CONFIGS}/r1_omni_cold_start.yaml", *runs, *SMALL, *sources)
    said = run("learner.sft", *command, "--model.path", str(downloads / "model"))
    started = downloads / "runs" / "r1_omni_cold_start" / "cold_start" / "hf"
    assert "sft.epochs=5 makes 5 steps" in said
    assert (started / "model.safetensors").is_file()

    sources = ("--data.source", mix(downloads), "--data.heldout", mix(downloads), "--learner.groups_per_step", "8")
    grpo = ("--config", f"{CONFIGS}/r1_omni_grpo.yaml", *runs, *SMALL, *sources, "--model.path", str(started))
    run("learner.main", *grpo)
    folder = downloads / "runs" / "r1_omni_grpo"
    # 16 clips twice over, 8 at a time
    assert [line["step"] for line in lines_of(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["num_heldout"], summary["canary_failures"], summary["draws_failed"]) == (16, 0, {})

    run("learner.evaluate", *grpo, "--run", "r1_omni_grpo", "--controls", "--name", "final")
    facts = json.loads((folder / "eval" / "final" / "report.json").read_text())
    asked = {(a["dataset"], a["condition"]): a["num_clips"] for a in facts["assessments"]}
    assert asked == {(name, c): n for name, n in (("dfew", 7), ("mafw", 9)) for c in CONDITIONS}
    assert "65.83" in (folder / "eval" / "final" / "report.html").read_text()

    out, clip = downloads / "predictions.jsonl", downloads / "DFEW" / "part_3" / "8.mp4"
    trained = folder / "checkpoints" / "step_000004" / "hf"
    run("learner.predict", "--model", str(trained), str(clip), "--out", str(out), "--max-tokens", "16")
    (said_of,) = lines_of(out)
    assert sum(said_of["probabilities"].values()) == pytest.approx(1.0)
