"""The configuration: every mistake is one line that names key, rule and value; every key is documented."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import deploy
from common.config.base import Config
from common.config.corpora import R1OmniDataConfig, SourceConfig
from common.config.data import SyntheticDataConfig
from common.config.describe import Option, describe_options
from common.config.load import dump_config, load_config
from common.config.reward import BuiltinRewardConfig
from common.config.run import OmniConfig, RunConfig
from common.config.tree import changeable_keys
from common.config.values import format_value, parse_value
from common.errors import ConfigError

CONFIGS = sorted((Path(deploy.__file__).parent / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a runs folder nor a Ray job."""
    monkeypatch.delenv("OMNI_RLVR_RUNS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def written(folder: Path, text: str) -> str:
    """A YAML file."""
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def complaint(*overrides: str, path: str | None = None) -> str:
    """The one line of a mistake."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- overrides and files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [("--learner.optimizer.lr", "1e-6"), ("--learner.optimizer.lr=1e-6",), ("--learner.optimizer.lr=.000001",)],
)
def test_an_override_reaches_its_key(overrides: tuple[str, ...]) -> None:
    assert load_config(None, overrides).learner.optimizer.lr == 1e-6


def test_values_are_yaml() -> None:
    config = load_config(
        None,
        [
            "--learner.freeze=[thinker.visual.*, '*.bias']",
            "--rollout.kv_cache_gib",
            "null",
            "--rollout.enforce_eager=false",
            "--rollout.sampling={temperature: 0.5, max_tokens: 7}",
            "--learner.steps=1e2",
            "--reward.rewards=[{type: builtin, name: accuracy_r1omni, weight: 2}]",
        ],
    )
    assert config.learner.freeze == ("thinker.visual.*", "*.bias")
    assert config.rollout.kv_cache_gib is None
    assert config.rollout.enforce_eager is False
    assert (config.rollout.sampling.temperature, config.rollout.sampling.max_tokens) == (0.5, 7)
    assert config.learner.steps == 100
    assert config.reward.rewards == (BuiltinRewardConfig(type="builtin", name="accuracy_r1omni", weight=2.0),)


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = written(tmp_path, "learner: {steps: 5, beta: 0.5}\nrollout: {group_size: 4}\n")
    config = load_config(path, ["--learner.steps", "6", "--learner.steps", "7"])
    assert (config.learner.steps, config.learner.beta, config.rollout.group_size) == (7, 0.5, 4)


def test_yaml_writes_small_numbers_both_ways(tmp_path: Path) -> None:
    for text in ("1e-6", "1.0e-6", "0.000001"):
        path = written(tmp_path, f"learner: {{optimizer: {{lr: {text}}}}}\n")
        assert load_config(path, []).learner.optimizer.lr == 1e-6


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert load_config(None, []) == load_config(written(tmp_path, "# nothing\n"), [])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.question", "Which emotion: happy or sad?"),
        ("data.question", "[think] first"),
        ("run.name", "2024"),
        ("run.name", "1e5"),
        ("run.name", "nan"),
        ("run.name", "on"),
        ("model.path", "/models/2024-01-01"),
        ("model.path", "123"),
    ],
)
def test_a_text_is_taken_as_it_is_typed(key: str, value: str) -> None:
    section, name = key.split(".")
    config = load_config(None, [f"--{key}", value])
    assert getattr(getattr(config, section), name) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.source.path", "123"),
        ("data.source.media_root", "on"),
        ("data.cold_start.path", "2024-01-01"),
    ],
)
def test_a_text_of_a_variant_is_taken_as_it_is_typed(key: str, value: str) -> None:
    config = load_config(
        None, ["--data.source.type=r1_omni", "--data.source.path=a", "--data.cold_start.path=b", f"--{key}", value]
    )
    _, part, name = key.split(".")
    assert getattr(getattr(config.data, part), name) == value


def test_keys_without_a_type_are_those_of_the_default(tmp_path: Path) -> None:
    config = load_config(None, ["--data.source.num_train", "100"])
    assert config.data.source == SyntheticDataConfig(type="synthetic", num_train=100)
    assert load_config(written(tmp_path, "data: {source: {num_train: 100}}\n"), []) == config
    # that of R1-Omni's file where nothing is the default
    heldout = load_config(None, ["--data.heldout.path=a.json"]).data.heldout
    assert heldout == R1OmniDataConfig(type="r1_omni", path="a.json")


def test_keys_are_added_to_the_type_that_the_file_gives(tmp_path: Path) -> None:
    path = written(tmp_path, "data: {source: {type: r1_omni, path: a.json}, heldout: null}\n")
    config = load_config(path, ["--data.source.media_root=/m", "--data.heldout.path=b.json"])
    assert config.data.source == R1OmniDataConfig(type="r1_omni", path="a.json", media_root="/m")
    assert config.data.heldout == R1OmniDataConfig(type="r1_omni", path="b.json")


@pytest.mark.parametrize("value", ["grpo", "[grpo]"])
def test_one_text_is_a_list_of_one(value: str, tmp_path: Path) -> None:
    assert load_config(None, ["--evaluation.policies", value]).evaluation.policies == ("grpo",)
    assert load_config(written(tmp_path, f"evaluation: {{policies: {value}}}\n"), []).evaluation.policies == (
        "grpo",
    )
    assert load_config(None, ["--learner.freeze", "thinker.visual.*"]).learner.freeze == ("thinker.visual.*",)
    assert load_config(None, ["--learner.freeze", "*.bias"]).learner.freeze == ("*.bias",)


def test_a_list_that_is_torn_is_no_text() -> None:
    assert "learner.freeze must be valid" in complaint("--learner.freeze", "[thinker.visual.*")


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (("--learner.lr", "5"), ("learner.lr must be a known key", "5", "--help")),
        (("--nothing.at_all", "x"), ("nothing must be a known key", "--help")),
        (("--learner.optimizer.lr", "fast"), ("learner.optimizer.lr", "number", "'fast'")),
        (("--learner.optimizer.lr", "-1"), ("learner.optimizer.lr", "greater than 0", "-1")),
        (("--learner.optimizer.lr", "nan"), ("learner.optimizer.lr", "nan")),
        (("--learner.zero_stage", "4"), ("learner.zero_stage", "4")),
        (("--learner.aggregation", "mean"), ("learner.aggregation", "'sequence', 'token' or 'constant'", "'mean'")),
        (("--learner.max_staleness", "-1"), ("learner.max_staleness", "-1")),
        (("--learner.optimizer", "5"), ("learner.optimizer", "5")),
        (("--data.source.type", "kinetics"), ("data.source", "'kinetics'", "'r1_omni', 'r1_omni_list', 'dfew'")),
        (("--data.source.type", "r1_omni"), ("data.source.path must be given, got nothing", "--help")),
        (
            ("--data.source.path", "a.json"),
            ("data.source.path must be a key of type synthetic", "type r1_omni has it"),
        ),
        (("--data.source.size", "3"), ("data.source.size must be a key of type synthetic", "got 3", "--help")),
        (("--data.source.num_train", "0"), ("data.source.num_train must be valid", "got 0")),
        (("--data.heldout.type=synthetic", "--data.heldout.path=a"), ("data.heldout.type", "'synthetic'")),
        (("--reward.rewards", "[{weight: 2}]"), ("reward.rewards.0.type must be given", "--help")),
        (("--reward.rewards", "[{type: python}]"), ("reward.rewards.0.name must be given", "--help")),
        (("--reward.rewards", "[{type: best}]"), ("reward.rewards.0.type must be one of 'builtin'", "got 'best'")),
        (
            ("--evaluation.policies", "best"),
            ("evaluation.policies.0", "'untrained', 'cold_start' or 'grpo'", "'best'"),
        ),
        (("--run.name", "a/b"), ("run.name must be letters, digits, dots and dashes", "'a/b'", "rename")),
        (("--run.name", ".."), ("run.name must be", "'..'")),
        (("--learner.optimizer.lr",), ("--learner.optimizer.lr must be followed by a value", "--help")),
        (("--lr", "1"), ("an override must look like --learner.optimizer.lr 1e-6", "'--lr'")),
        (("my.yaml",), ("an override must look like", "'my.yaml'")),
        (("--learner.steps.more", "1"), ("learner.steps", "1")),
    ],
)
def test_a_mistake_names_key_rule_and_value(overrides: tuple[str, ...], parts: tuple[str, ...]) -> None:
    said = complaint(*overrides)
    assert [part for part in parts if part not in said] == [], said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("--rollout.group_size", "1"),
            "rollout.group_size must be >= 2, got 1; GRPO needs a group to centre rewards",
        ),
        (
            ("--rollout.sampling.max_tokens=64", "--rollout.max_model_len=64"),
            "rollout.sampling.max_tokens must be < rollout.max_model_len, got 64 >= 64; "
            "lower the one or raise the other",
        ),
        (
            ("--learner.old_logprobs=rollout", "--rollout.sampling.top_k=5"),
            "rollout.sampling must keep every token with learner.old_logprobs=rollout, got top_k=5 top_p=1.0; "
            "set top_k to 0 and top_p to 1, or old_logprobs to learner",
        ),
        (
            ("--learner.old_logprobs=rollout", "--rollout.sampling.top_p=0.9"),
            "rollout.sampling must keep every token with learner.old_logprobs=rollout, got top_k=0 top_p=0.9; "
            "set top_k to 0 and top_p to 1, or old_logprobs to learner",
        ),
        (
            ("--learner.num_ranks=3", "--learner.groups_per_step=2"),
            "learner.groups_per_step must be >= learner.num_ranks, got 2 < 3; raise the one or lower the other",
        ),
        (
            ("--learner.lora={}", "--learner.freeze=[thinker.model.*]"),
            "learner.lora.targets must match a layer that learner.freeze leaves, got "
            "['thinker.model.layers.*_proj'] with freeze=['thinker.model.*']; freeze less",
        ),
        (
            ("--learner.zero_stage=0", "--learner.offload=optimizer"),
            "learner.offload must be none at zero_stage 0, got 'optimizer'; take zero_stage 1, 2 or 3",
        ),
        (
            ("--learner.zero_stage=2", "--learner.offload=parameters"),
            "learner.offload=parameters must come with zero_stage 3, got 2; take zero_stage 3, "
            "or offload the optimizer alone",
        ),
        (
            ("--reward.rewards=[{type: builtin, name: a}, {type: python, name: a, entrypoint: 'a:b'}]",),
            "reward.rewards must name each reward once, got 'a' twice; give one another name",
        ),
        (
            ("--reward.rewards=[{type: builtin, name: a, requires: b}]",),
            "reward.rewards a.requires and .caps must name other rewards of the list, got 'b'; it has a",
        ),
        (
            (
                "--reward.rewards=[{type: builtin, name: a, requires: b}, {type: builtin, name: b, caps: {a: 0}}, "
                "{type: builtin, name: c}]",
            ),
            "reward.rewards must not require each other in a circle, got a, b; take one of them out",
        ),
        (
            ("--reward.rewards=[{type: builtin, name: a, clip: [1, 1]}]",),
            "reward.rewards a.clip must be [lowest, highest], got [1.0, 1.0]; swap them",
        ),
        (
            ("--reward.rewards=[{type: builtin, name: a, normalise: unit}]",),
            "reward.rewards a.clip must be given with normalise=unit, got null; say what 0 and 1 are",
        ),
        (
            ("--reward.deadline_s=60",),
            "reward.deadline_s must be > the deadline_s of each reward, got 60 <= 60 of accuracy_r1omni; raise the "
            "one or lower the other",
        ),
        (
            ("--reward.rewards=[{type: http, name: a, url: 'http://far.example:8080'}]",),
            "reward.rewards a.url must be https to another machine, got 'http://far.example:8080'; set "
            "allow_plain_http where the network is trusted",
        ),
        (
            ("--reward.rewards=[{type: http, name: a, url: 'https://me:secret@far.example'}]",),
            "reward.rewards url must hold no password, got one for 'far.example'; give token_env",
        ),
        (
            ("--reward.rewards=[{type: http, name: a, url: 'ftp://far.example'}]",),
            "reward.rewards url must be like https://host:port, got 'ftp://far.example'; correct it",
        ),
        (
            ("--reward.rewards=[]",),
            "reward.rewards must hold at least one reward, got []; leave the key out for the paper's two",
        ),
        (
            ("--reward.rewards=[{type: builtin, name: format, weight: 0}]",),
            "reward.rewards must hold a reward of a weight above 0, got 0 for all, which is the same for every "
            "completion; give one a weight",
        ),
        (
            ("--data.source={type: r1_omni, path: a.json}", "--sft.steps=1"),
            "data.cold_start must be given with sft.steps or sft.epochs, got nothing; give clips or leave both out",
        ),
        (
            ("--data.source={type: r1_omni, path: a.json}", "--evaluation.policies=[grpo]"),
            "data.heldout must be given with evaluation.policies, got nothing; give clips or set policies to []",
        ),
        (
            ("--data.source={type: r1_omni, path: a.json}", "--evaluation.every_checkpoints=1"),
            "data.validation must be given with evaluation.every_checkpoints > 0, got nothing; give clips or set "
            "every_checkpoints to 0",
        ),
        (
            ("--learner.groups_per_step=7", "--learner.num_ranks=3"),
            "learner.groups_per_step must be a multiple of learner.num_ranks, got 7 over 3; take 6 or 9 groups, or "
            "other ranks",
        ),
    ],
)
def test_rules_between_fields_say_the_remedy(overrides: tuple[str, ...], said: str) -> None:
    assert complaint(*overrides) == said


def test_what_the_rules_allow_is_allowed() -> None:
    config = load_config(
        None,
        [
            "--rollout.group_size=2",
            "--rollout.sampling.max_tokens=63",
            "--rollout.max_model_len=64",
            "--learner.old_logprobs=rollout",
            "--learner.num_ranks=2",
            "--learner.groups_per_step=2",
        ],
    )
    assert config.learner.old_logprobs == "rollout"
    truncated = load_config(None, ["--rollout.sampling.top_k=5"])
    assert truncated.rollout.sampling.truncates


def test_fewest_pixels_are_no_more_than_most() -> None:
    said = complaint("--data.min_pixels=50000", "--data.max_pixels=784")
    assert "data.min_pixels must be <= data.max_pixels" in said


@pytest.mark.parametrize("value", [".inf", ".nan"])
@pytest.mark.parametrize("key", ["learner.deadline_s", "learner.publish.canary_tolerance", "learner.beta"])
def test_a_number_is_finite(key: str, value: str) -> None:
    assert key in complaint(f"--{key}={value}")


@pytest.mark.parametrize("value", [".inf", ".nan", "-1"])
def test_a_weight_is_a_finite_number(value: str) -> None:
    assert "weight" in complaint(f"--reward.rewards=[{{type: builtin, name: a, weight: {value}}}]")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- 1\n", "list"),
        ("a: [", "YAML"),
        ("run: 5\n", "run"),
        ("1: 2\n", "1"),
    ],
)
def test_a_file_that_holds_something_else_is_said_in_one_line(tmp_path: Path, text: str, part: str) -> None:
    assert part in complaint(path=written(tmp_path, text))


def test_a_section_left_empty_keeps_its_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "learner:\n  optimizer:\nrun:\n")
    assert load_config(path, []) == load_config(None, [])
    assert load_config(path, ["--learner.optimizer.lr=1e-3"]).learner.optimizer.lr == 1e-3


def test_a_file_that_is_no_text_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00a")
    assert "config.yaml" in complaint(path=str(tmp_path / "config.yaml"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    said = complaint(path=str(tmp_path / "no.yaml"))
    assert said == f"--config must be a readable file, got '{tmp_path}/no.yaml'; No such file or directory"


def test_further_mistakes_are_counted() -> None:
    assert complaint("--a.b=1", "--c.d=2").endswith("(and 1 more)")


# -- the tree -------------------------------------------------------------------------------------


def test_a_dumped_configuration_loads_as_itself(tmp_path: Path) -> None:
    config = load_config(
        None,
        [
            "--data.source={type: r1_omni, path: /data/ü.json}",
            "--data.question=Was?\nWarum: so?",
            "--learner.freeze=['*.visual.*']",
            "--learner.optimizer.lr=3e-7",
            "--learner.deadline_s=1e300",
            "--reward.rewards=[{type: builtin, name: format_r1omni, weight: 0.5, options: {a: [1]}}]",
        ],
    )
    assert load_config(written(tmp_path, dump_config(config)), []) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_configuration_loads_and_comes_back(path: Path, tmp_path: Path) -> None:
    config = load_config(str(path), [])
    assert load_config(written(tmp_path, dump_config(config)), []) == config


def test_the_quick_demo_has_every_stage_of_the_demo_and_fewer_clips_and_steps() -> None:
    demo, quick = (load_config(f"deploy/configs/{name}.yaml", []) for name in ("demo", "demo_quick"))
    assert quick.run.name != demo.run.name
    assert quick.evaluation == demo.evaluation
    assert 0 < quick.sft.steps < demo.sft.steps
    assert 0 < quick.learner.steps < demo.learner.steps
    sizes = ("num_cold_start", "num_train", "num_heldout")
    assert all(0 < getattr(quick.data.source, size) < getattr(demo.data.source, size) for size in sizes)
    assert quick.model_dump(include={"model", "rollout", "reward"}) == demo.model_dump(
        include={"model", "rollout", "reward"}
    )


def test_some_configuration_is_shipped() -> None:
    assert CONFIGS


def parts_of(model: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    """Every part of the tree."""
    for part in model.__subclasses__():
        yield part
        yield from parts_of(part)


def test_every_field_has_its_sentence() -> None:
    parts = [p for p in parts_of() if p.__module__.startswith("common.config")]
    assert OmniConfig in parts
    assert len(parts) >= 15
    silent = [f"{p.__name__}.{n}" for p in parts for n, f in p.model_fields.items() if not f.description]
    assert silent == []
    assert [p.__name__ for p in parts if not p.__doc__] == []


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names with their values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


DEFAULTS = dict(leaves(OmniConfig().model_dump(mode="json")))


def options() -> list[Option]:
    """All that the help lists, in its order."""
    return [option for section in describe_options() for option in section.options]


def test_help_lists_every_key_with_the_default_of_the_resolved_tree() -> None:
    listed = {option.key: option.default for option in options() if not option.is_item}
    tree = dict(leaves(yaml.safe_load(dump_config(OmniConfig()))))
    assert {key: listed.get(key) for key in tree} == {key: format_value(value) for key, value in tree.items()}
    assert (listed["learner.optimizer.lr"], listed["sft.optimizer.lr"]) == ("1e-06", "2e-05")
    assert all(option.text.strip() for option in options())


@pytest.mark.parametrize("key", [key for key in DEFAULTS if key != "run.root"])
def test_a_key_that_is_given_its_default_changes_nothing_else(key: str) -> None:
    # a shell takes the quotes off
    typed = format_value(DEFAULTS[key]).replace('""', "")
    assert load_config(None, [f"--{key}", typed]) == load_config(None, [])


def test_help_lists_what_each_variant_may_be() -> None:
    found = {(option.key, option.member): option for option in options() if not option.is_item}
    assert {key for key, member in found if member == "r1_omni"} == {
        f"data.{part}.{name}"
        for part in ("source", "cold_start", "validation", "heldout")
        for name in ("path", "media_root", *SourceConfig.model_fields)
    }
    assert found["data.source.num_train", "synthetic"].default == "560"
    assert found["data.source.path", "r1_omni"].default == ""
    assert "| table | mix | synthetic." in found["data.source.type", None].text
    keys = [option.key for option in options()]
    assert keys.index("data.source.type") + 1 == keys.index("data.source.path")


def test_help_lists_the_rewards_and_the_values_of_closed_sets() -> None:
    items = {option.member: option for option in options() if option.is_item}
    assert items["builtin"].default.startswith("{type: builtin, name: NAME, weight: 1.0, deadline_s: 60.0, ")
    assert "entrypoint: ENTRYPOINT, style: auto, conversational: true, options: {}" in items["python"].default
    assert "entrypoint: Module and function" in items["python"].text
    texts = {option.key: option.text for option in options() if not option.is_item}
    assert texts["sft.optimizer.schedule"].endswith("One of: constant | linear | cosine.")
    assert texts["evaluation.policies"].endswith("Any of: untrained | cold_start | grpo.")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 1e-6, "grpo", "a, b", "1", "null", "", "a: b", ["x", 1.5], {"type": "a", "weight": None}],
)
def test_a_value_is_shown_as_it_would_be_typed(value: object) -> None:
    assert parse_value(format_value(value)) == value
    assert "\n" not in format_value("two\nlines")


def test_what_a_resumed_run_may_change_is_marked_at_its_field() -> None:
    keys = changeable_keys(OmniConfig)
    deadlines = {key for key in DEFAULTS if key.endswith(("deadline_s", "num_cpus", "num_gpus", "num_threads"))}
    assert {key for key in deadlines if not any(key == k or key.startswith(f"{k}.") for k in keys)} == set()
    assert {"run.root", "evaluation", "learner.checkpoint", "learner.steps", "data.heldout.media_root"} <= keys
    assert not keys & {"run.seed", "learner.optimizer.lr", "rollout.group_size", "model.path", "sft.steps"}


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(None, []).learner.steps = 3  # pyright: ignore[reportAttributeAccessIssue]


# -- the runs' folder -----------------------------------------------------------------------------


def test_the_root_is_the_value_then_the_variable_then_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_config(None, []).run.root == str(tmp_path / "home" / "omni-rlvr-runs")
    monkeypatch.setenv("OMNI_RLVR_RUNS", str(tmp_path / "runs"))
    assert load_config(None, []).run.root == str(tmp_path / "runs")
    config = load_config(None, ["--run.root", str(tmp_path / "mine"), "--run.name", "x"])
    assert config.run.root == str(tmp_path / "mine")
    assert config.run.folder == tmp_path / "mine" / "x"


def test_a_home_and_a_relative_root_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunConfig(root="~/runs").root == str(tmp_path / "home" / "runs")
    assert RunConfig(root="runs").root == str(tmp_path / "runs")
    assert RunConfig(root="./runs").root == str(tmp_path / "runs")


def test_a_relative_root_is_refused_in_a_ray_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    said = complaint("--run.root", "runs")
    assert said.startswith("run.root must be absolute under `ray job submit`, got 'runs'")
    assert "$OMNI_RLVR_RUNS" in said
    assert load_config(None, ["--run.root", str(tmp_path)]).run.root == str(tmp_path)
    monkeypatch.setenv("OMNI_RLVR_RUNS", "runs")
    assert "got 'runs'" in complaint()


def test_a_resolved_root_does_not_move_with_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = load_config(None, ["--run.root", str(tmp_path)])
    path = written(tmp_path, dump_config(config))
    monkeypatch.setenv("OMNI_RLVR_RUNS", "/elsewhere")
    assert load_config(path, []).run.root == str(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], True),
        (["--run.deterministic=false"], False),
        (["--run.deterministic=true"], True),
        (["--learner.max_staleness=1"], False),
        (["--rollout.num_gpus=1"], False),
        (["--learner.num_gpus=1"], False),
    ],
)
def test_a_run_repeats_where_it_can_unless_told_otherwise(overrides: list[str], expected: bool) -> None:
    assert load_config(None, overrides).is_deterministic is expected


@pytest.mark.parametrize("key", ["learner.max_staleness", "rollout.num_gpus", "learner.num_gpus"])
def test_repetition_is_not_promised_where_it_cannot_be_had(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.deterministic must be off .*{key}=1"):
        load_config(None, ["--run.deterministic=true", f"--{key}=1"])
