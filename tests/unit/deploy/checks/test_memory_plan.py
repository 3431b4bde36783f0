"""The memory plan: counted from headers, and what cannot fit is refused with the parts that it is made of."""

import json
from pathlib import Path

import pytest

import deploy.checks.machine
from common.config.load import load_config
from common.config.run import OmniConfig
from common.errors import ClusterError, ConfigError
from common.models.limits import MAX_LOGITS
from deploy.checks.machine import parse_cluster
from deploy.checks.memory_plan import (
    LOGIT_BYTES,
    PROCESSES,
    ModelSizes,
    engine_cache_bytes,
    engine_weight_bytes,
    format_memory,
    model_sizes,
    rank_memory,
    require_free_memory,
    require_memory,
)
from deploy.commands import sft
from deploy.commands.train import main
from tests.figures.stored import FOLDER
from tests.gpu import step
from tests.gpu.subjects import RELEASED
from tests.support.sparse import write_sparse_checkpoint
from tests.unit.deploy.commands.test_command_line import mistake

GIB = 2**30
CONFIGS = {
    "qwen2_5_omni_3b_1gpu": ("3b", "cpus=8,gpus=1"),
    "qwen2_5_omni_7b_8gpu": ("7b", "cpus=64,gpus=8"),
    "two_nodes": ("7b", "cpus=128,gpus=16"),
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """Folders of the released sizes, and the numbers in their thinkers."""
    root = tmp_path_factory.mktemp("models")
    return {size: (root / size, write_sparse_checkpoint(root / size, size)) for size in ("3b", "7b")}


@pytest.fixture(scope="module")
def three(released: dict[str, tuple[Path, int]]) -> ModelSizes:
    """The smaller one's sizes."""
    return model_sizes(released["3b"][0])


def config_of(*overrides: str) -> OmniConfig:
    """Four ranks in bfloat16."""
    return load_config(None, ["--learner.num_ranks=4", "--learner.zero_stage=0", *overrides])


def test_what_the_policy_loads_is_counted_and_nothing_else(released: dict[str, tuple[Path, int]]) -> None:
    for size, about in (("3b", 4.7e9), ("7b", 8.9e9)):
        folder, count = released[size]
        assert model_sizes(folder).num_parameters == count
        assert count == pytest.approx(about, rel=0.02)


@pytest.mark.parametrize(
    ("stage", "dtype", "weights", "gradients", "optimizer"),
    [
        # bytes per number; 4 ranks share what a stage partitions
        (0, "float32", 4, 4, 8),
        (0, "bfloat16", 2, 2, 12),
        (1, "bfloat16", 2, 2, 3),
        (2, "bfloat16", 2, 1, 3),
        (3, "bfloat16", 0.5, 1, 3),
        (3, "float32", 1, 1, 3),
    ],
)
def test_what_a_stage_partitions_is_shared(
    stage: int, dtype: str, weights: float, gradients: float, optimizer: float, three: ModelSizes
) -> None:
    rank = rank_memory(config_of(f"--learner.zero_stage={stage}", f"--model.dtype={dtype}"), three)
    expected = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    assert {k: rank.device[k] for k in expected} == {
        k: pytest.approx(v * three.num_parameters, abs=1) for k, v in expected.items()
    }
    assert rank.device["reference"] == three.num_parameters * (4 if dtype == "float32" else 2)
    assert rank.host == {}


def test_what_waits_in_host_memory_is_counted_there(three: ModelSizes) -> None:
    stage = "--learner.zero_stage=3"
    resident = rank_memory(config_of(stage), three)
    offloaded = rank_memory(
        config_of(stage, "--learner.offload=parameters", "--learner.reference=offloaded"), three
    )
    assert set(offloaded.host) == {"weights", "optimizer", "reference"}
    assert offloaded.device_bytes + offloaded.host_bytes == resident.device_bytes
    assert set(rank_memory(config_of(stage, "--learner.offload=optimizer"), three).host) == {"optimizer"}


def test_what_is_frozen_has_weights_alone(three: ModelSizes) -> None:
    towers = sum(
        rank_memory(config_of(f"--learner.freeze=['{pattern}']"), three).num_trained
        for pattern in ("thinker.visual.*", "thinker.[!v]*")
    )
    assert towers == three.num_parameters
    with pytest.raises(ConfigError, match=r"learner.freeze must match parameters, got 'thinker.vision.\*'"):
        rank_memory(config_of("--learner.freeze=[thinker.vision.*]"), three)


def test_adapters_are_counted_matrix_by_matrix_and_need_no_second_model(three: ModelSizes) -> None:
    rank = rank_memory(
        config_of("--learner.lora={rank: 8, targets: ['thinker.model.layers.*.mlp.down_proj']}"), three
    )
    assert rank.num_trained == 36 * 8 * (2048 + 11008)
    assert rank.device["reference"] == 0


def test_longer_and_wider_passes_take_more_and_recomputing_less(three: ModelSizes) -> None:
    def activations(*overrides: str) -> int:
        return rank_memory(config_of(*overrides), three).device["activations"]

    assert activations("--learner.max_rows_per_micro_batch=16") > activations()
    assert activations("--rollout.max_model_len=8192") > activations()
    assert activations("--learner.gradient_checkpointing=true") < activations() / 4
    # a tower that is frozen keeps nothing, however that was said
    frozen = activations("--learner.freeze=['thinker.visual.*']")
    assert frozen == activations("--learner.freeze=['thinker.vis*']") < activations()


def test_logits_take_more_for_more_tokens_up_to_a_chunk(three: ModelSizes) -> None:
    def logits(num_tokens: int) -> int:
        config = config_of(f"--rollout.sampling.max_tokens={num_tokens}", "--learner.max_rows_per_micro_batch=1")
        return rank_memory(config, three).device["logits"]

    assert logits(128) == 2 * logits(64)
    assert logits(2048) == logits(1024) == MAX_LOGITS * LOGIT_BYTES


def test_what_cannot_fit_is_refused_with_its_parts(three: ModelSizes) -> None:
    config = config_of("--learner.num_gpus=1", "--rollout.num_gpus=1")
    with pytest.raises(ClusterError, match=r"a learner rank must fit 80.00 GiB of its GPU, got .*optimizer 5\d"):
        require_memory(config, three, device_bytes=80 * GIB, host_bytes=None)
    with pytest.raises(ClusterError, match="an engine's weights must fit"):
        require_memory(config_of("--rollout.num_gpus=1"), three, device_bytes=8 * GIB, host_bytes=None)
    with pytest.raises(ClusterError, match=r"ranks and engines must fit 100.00 GiB of host memory"):
        require_memory(config_of(), three, device_bytes=None, host_bytes=100 * GIB)
    require_memory(config_of(), three, device_bytes=None, host_bytes=None)
    engine = engine_weight_bytes(config_of(), three) + (engine_cache_bytes(config_of(), three) or 0)
    whole = 4 * rank_memory(config_of(), three).device_bytes + engine
    require_memory(config_of(), three, device_bytes=None, host_bytes=whole)
    with pytest.raises(ClusterError):
        require_memory(config_of(), three, device_bytes=None, host_bytes=whole - 1)


def test_a_cache_holds_as_many_of_the_longest_sequences_as_run_at_once(three: ModelSizes) -> None:
    # keys and values of 36 layers x 2 heads x 128, in bfloat16, of 128 tokens
    block = 2 * 36 * 2 * 128 * 2 * 128

    def blocks(*overrides: str) -> float:
        return (engine_cache_bytes(config_of(*overrides), three) or 0) / block

    assert blocks() == 64 * 32 + 1
    assert blocks("--rollout.max_model_len=4097", "--rollout.max_num_seqs=2") == 2 * 33 + 1
    assert blocks("--model.dtype=float32") == 2 * blocks()
    assert engine_cache_bytes(config_of("--rollout.kv_cache_gib=0.5"), three) == GIB // 2
    # on a GPU vLLM's own share decides, unless it is given
    assert engine_cache_bytes(config_of("--rollout.num_gpus=1"), three) is None
    assert engine_cache_bytes(config_of("--rollout.num_gpus=1", "--rollout.kv_cache_gib=2"), three) == 2 * GIB


def test_engines_that_do_not_fit_the_free_memory_are_refused(three: ModelSizes) -> None:
    for override in ("--rollout.max_num_seqs=8", "--rollout.kv_cache_gib=3"):
        config = config_of(override)
        each = engine_weight_bytes(config, three) + (engine_cache_bytes(config, three) or 0) + PROCESSES
        require_free_memory(config, three, num_engines=2, free_bytes=2 * each)
        with pytest.raises(ClusterError, match=f"free memory, got {2 * each / GIB:.2f} GiB for 2 .*kv_cache_gib"):
            require_free_memory(config, three, num_engines=2, free_bytes=2 * each - 1)
    on_gpus = config_of("--rollout.num_gpus=1", "--rollout.kv_cache_gib=3")
    require_free_memory(on_gpus, three, num_engines=2, free_bytes=0)


def test_a_cache_that_holds_no_sequence_is_refused_with_what_would(three: ModelSizes) -> None:
    def require(kv_cache_gib: str) -> None:
        config = config_of(f"--rollout.kv_cache_gib={kv_cache_gib}")
        require_free_memory(config, three, num_engines=0, free_bytes=0)

    with pytest.raises(ConfigError, match=r"one sequence of rollout.max_model_len=4096, got 0.1;") as caught:
        require("0.1")
    require(str(caught.value).split(">= ")[1].split(" ")[0])


def test_a_dry_run_shows_the_cache_and_refuses_what_is_not_free(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dry-run", "--model.path", tiny, "--sft.steps=1"]
    monkeypatch.setattr(deploy.checks.machine, "free_memory_bytes", lambda: 100 * GIB)
    for override, shown in (
        # 2 layers x 2 heads x 32, in float32
        ("--rollout.max_num_seqs=128", "0.50 GiB  host, for rollout.max_num_seqs sequences"),
        ("--rollout.kv_cache_gib=0.25", "0.25 GiB  host"),
    ):
        assert main([*arguments, "--model.dtype=float32", override]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "an engine's cache" in line]
        assert line.endswith(shown)
    monkeypatch.setattr(deploy.checks.machine, "free_memory_bytes", lambda: GIB)
    assert "engines on this machine must fit the 1.00 GiB of free memory, got 2." in mistake(capsys, *arguments)
    # the supervised stage starts none
    assert sft.main(arguments) == 0


def test_a_table_names_every_part_and_where_it_lies(three: ModelSizes) -> None:
    config = config_of("--learner.zero_stage=3", "--learner.offload=optimizer", "--learner.num_gpus=1")
    lines = format_memory(config, three).splitlines()
    assert lines[0].startswith(f"memory of one learner rank: {three.num_parameters / 1e6:,.1f} M parameters")
    shown = {line[2:].split("  ")[0]: line.split("  ")[-1] for line in lines[1:]}
    assert shown["optimizer"] == "host, offloaded"
    assert shown["weights"] == "GPU"
    assert shown["an engine's weights"] == "host"


def test_a_cluster_is_read_from_the_command_line() -> None:
    machine = parse_cluster("cpus=64, gpus=8,gpu_memory_gib=40,memory_gib=512")
    assert (machine.num_cpus, machine.num_gpus) == (64, 8)
    assert (machine.gpu_memory_bytes, machine.memory_bytes) == (40 * GIB, 512 * GIB)
    assert parse_cluster("cpus=2").num_gpus == 0
    for text in ("", "cpus", "cpus=many", "gpus=8", "cpus=2,tpus=1", "cpus=-1"):
        with pytest.raises(ConfigError, match="--cluster must"):
            parse_cluster(text)


def arguments_of(name: str, released: dict[str, tuple[Path, int]], folder: Path) -> list[str]:
    """A dry run of a configuration over files that are there."""
    turns = [{"value": "<video>"}, {"value": "sad"}]
    (folder / "a.mp4").write_bytes(b"")
    (folder / "train.json").write_text(json.dumps([{"video": "a.mp4", "conversations": turns}]))
    model = ["--model.path", str(released[CONFIGS[name][0]][0]), "--data.source.path", str(folder / "train.json")]
    return ["--config", f"deploy/configs/{name}.yaml", *model, "--run.root", str(folder / "runs"), "--dry-run"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_fits_its_cluster_and_no_smaller_one(
    name: str, released: dict[str, tuple[Path, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, cluster = arguments_of(name, released, tmp_path), CONFIGS[name][1]
    assert main([*arguments, "--cluster", cluster]) == 0
    shown = capsys.readouterr().out
    assert "the cluster" in shown
    assert "memory of one learner rank" in shown
    assert "warning" not in shown
    assert "GPUs and this machine has" not in shown
    smaller = {"cpus=8,gpus=1": "cpus=8", "cpus=64,gpus=8": "cpus=64,gpus=7"}.get(cluster, "cpus=128,gpus=15")
    assert "GPUs" in mistake(capsys, *arguments, "--cluster", smaller)
    assert "a learner rank must fit" in mistake(capsys, *arguments, "--cluster", f"{cluster},gpu_memory_gib=16")
    # all weights without what makes them fit
    greedy = ["--learner.lora", "null"] if name.endswith("1gpu") else ["--learner.zero_stage", "0"]
    assert "a learner rank must fit" in mistake(capsys, *arguments, *greedy, "--cluster", cluster)


def test_a_cluster_without_a_dry_run_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--cluster must come with --dry-run" in mistake(capsys, "--cluster", "cpus=2")


@pytest.mark.parametrize("name", ["step", "step-full", "step-no-checkpointing"])
def test_the_plan_is_not_much_under_what_a_gpu_was_seen_to_hold(name: str, three: ModelSizes) -> None:
    measured = json.loads((FOLDER / f"gpu-{name}.json").read_text())["step"]["figures"]["peak_bytes"]["value"]
    variant = "shipped" if name == "step" else name.removeprefix("step-")
    planned = rank_memory(step.config_of(RELEASED, *step.VARIANTS[variant]), three).device_bytes
    assert 0.9 < planned / measured < 1.3
