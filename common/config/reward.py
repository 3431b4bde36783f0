"""Configuration of the reward plane."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from common.config.address import check_privacy, checked_url
from common.config.base import Config, changeable

ENTRYPOINT = r"^[\w.]+:\w+$"
OnError = Literal["retry_then_fail_group", "skip_reward_for_group", "stop_run"]
Style = Literal["auto", "omni", "trl", "verl"]


class RewardEntry(Config):
    """Options of every reward."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the reward in the breakdown and the metrics."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of the reward in the sum."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Seconds that a completion may take, all attempts together, its wait for a turn left out; or a whole group,
    where a call takes one."""
    max_retries: int = Field(default=2, ge=0)
    """Number of retries after a failure, with waits that double; a missed deadline is not retried."""
    on_error: OnError = "retry_then_fail_group"
    """Action for a group on which the reward failed after all retries."""
    requires: str | None = None
    """Another reward: where that one is 0, this one is worth 0."""
    caps: dict[str, float] = Field(default={})
    """Other rewards, with the most that this one is worth where they are 0."""
    clip: tuple[float, float] | None = None
    """Lowest and highest that counts; null for no bounds."""
    normalise: Literal["none", "unit", "group"] = "none"
    """Weighted quantity: the value, its position in `clip` from 0 to 1, or its distance from the group's mean in
    standard deviations."""

    @property
    def gates(self) -> frozenset[str]:
        """The rewards that this one's worth depends on."""
        return frozenset((*self.caps, *([self.requires] if self.requires else [])))

    @model_validator(mode="after")
    def bounds_are_in_order(self) -> Self:
        """An empty range would make every value the same."""
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(
                f"reward.rewards {self.name}.clip must be [lowest, highest], got {list(self.clip)}; swap them"
            )
        if self.normalise == "group" and self.requires is not None:
            raise ValueError(
                f"reward.rewards {self.name}.requires must not be given with normalise=group, got "
                f"{self.requires!r}: 0 is the group's mean there and not the worst; leave one out"
            )
        if self.normalise == "unit" and self.clip is None:
            raise ValueError(
                f"reward.rewards {self.name}.clip must be given with normalise=unit, got null; say what 0 and 1 are"
            )
        return self


class BuiltinRewardConfig(RewardEntry):
    """A built-in reward; `python -m reward.check --list` lists them."""

    type: Literal["builtin"]
    """Chooses this kind."""
    builtin: str | None = None
    """Which one, where `name` is another."""
    options: dict[str, Any] = Field(default={})
    """Its options."""

    @property
    def builtin_name(self) -> str:
        """Which one it is."""
        return self.builtin or self.name


class UserCodeConfig(RewardEntry):
    """User code, in any kind of host."""

    entrypoint: str = Field(pattern=ENTRYPOINT)
    """Module and function or class, importable where the run was started: `my_rewards:brevity`."""
    style: Style = "auto"
    """Calling convention; `auto` detects it from the names of the parameters."""
    conversational: bool = True
    """Pass completions as messages in trl style, as TRL does for conversations; else as texts."""
    options: dict[str, Any] = Field(default={})
    """Arguments of a class, or further arguments of a function."""
    max_concurrency: int = Field(default=8, ge=1)
    """Calls at a time in each process, where the code is async; any other code is called once at a time."""


class PythonRewardConfig(UserCodeConfig):
    """A user's function or class, in processes beside the service."""

    type: Literal["python"]
    """Chooses this kind."""
    num_workers: int = Field(default=1, ge=1)
    """Processes that call it."""
    max_spare_workers: int = Field(default=8, ge=0)
    """Further processes that are opened while all others are busy for long, as where calls hang."""
    max_memory_gib: float | None = Field(default=8.0, gt=0)
    """GiB that each process may take; more is a MemoryError in it. Null for no bound."""


class ActorRewardConfig(UserCodeConfig):
    """A user's class as Ray actors, with their own CPUs and GPUs."""

    type: Literal["actor"]
    """Chooses this kind."""
    num_cpus: float = Field(default=1.0, ge=0)
    """Ray CPUs of each."""
    num_gpus: float = Field(default=0.0, ge=0)
    """Ray GPUs of each."""
    replicas: int = Field(default=1, ge=1)
    """Number of actors."""
    runtime_env: dict[str, Any] = Field(default={})
    """Ray's runtime environment of them, beside the run's own."""


class NamedActorRewardConfig(RewardEntry):
    """A Ray actor that others run, found by its name."""

    type: Literal["named_actor"]
    """Chooses this kind."""
    actor: str
    """Its name."""
    namespace: str = "omni-rlvr"
    """Ray's namespace that the name is of."""
    method: str = Field(default="score", pattern=r"^[A-Za-z]\w*$")
    """Its method, called with the samples of a group as the HTTP service is: a list of mappings."""
    max_concurrency: int = Field(default=8, ge=1)
    """Groups in flight."""


class HttpRewardConfig(RewardEntry):
    """A service that implements `POST /v1/score`, such as `python -m reward.http`."""

    type: Literal["http"]
    """Chooses this kind."""
    url: str
    """Address of the service, without `/v1/score`: https, or http on this machine."""
    token_env: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable that holds the bearer token."""
    allow_plain_http: bool = False
    """Allow http to another machine, without a token: anybody on the network can read the texts."""
    send_paths: bool = False
    """Send the paths of the clip's files, for a service with the same storage."""
    max_concurrency: int = Field(default=16, ge=1)
    """Groups in flight."""

    @field_validator("url")
    @classmethod
    def a_url_names_a_service_and_no_secret(cls, url: str) -> str:
        """The configuration is saved with the run."""
        return checked_url(url, key="reward.rewards url")

    @model_validator(mode="after")
    def what_leaves_the_machine_is_encrypted(self) -> Self:
        """Texts about people, and a token."""
        check_privacy(
            self.url,
            key=f"reward.rewards {self.name}.url",
            has_token=self.token_env is not None,
            allow_plain_http=self.allow_plain_http,
        )
        return self


RewardKind = (
    BuiltinRewardConfig | PythonRewardConfig | ActorRewardConfig | NamedActorRewardConfig | HttpRewardConfig
)
AnyRewardConfig = Annotated[RewardKind, Field(discriminator="type")]


class RewardConfig(Config):
    """Rewards of completions."""

    rewards: tuple[AnyRewardConfig, ...] = (
        BuiltinRewardConfig(type="builtin", name="accuracy_r1omni"),
        BuiltinRewardConfig(type="builtin", name="format_r1omni"),
    )
    """Rewards that are weighted and summed: a list of any of these."""
    num_cpus: float = changeable(0.1, ge=0)
    """Ray CPUs of the reward actor."""
    deadline_s: float = changeable(900.0, gt=0)
    """Seconds until the scoring of a group counts as failed, whatever its rewards wait for."""
    max_concurrency: int = changeable(64, ge=1)
    """Groups that are scored at a time."""
    max_retries: int = changeable(2, ge=0)
    """Times that a group is scored again, with nobody beside, after the service died while it was scored."""

    @model_validator(mode="after")
    def each_reward_is_named_once(self) -> Self:
        """The breakdown is keyed by name."""
        names = [r.name for r in self.rewards]
        twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
        if twice is not None:
            raise ValueError(
                f"reward.rewards must name each reward once, got {twice!r} twice; give one another name"
            )
        if "total" in names or "equal_groups_fraction" in names:
            raise ValueError(
                "reward.rewards must not use the names of other metrics, got 'total' or 'equal_groups_fraction'; "
                "give it another name"
            )
        return self

    @model_validator(mode="after")
    def something_is_rewarded(self) -> Self:
        """A sum over nothing is the same for every completion."""
        if not self.rewards:
            raise ValueError(
                "reward.rewards must hold at least one reward, got []; leave the key out for the paper's two"
            )
        if not any(r.weight for r in self.rewards):
            raise ValueError(
                "reward.rewards must hold a reward of a weight above 0, got 0 for all, which is the same for every "
                "completion; give one a weight"
            )
        return self

    @model_validator(mode="after")
    def gates_are_other_rewards_in_no_circle(self) -> Self:
        """A dependency cycle has no value."""
        waiting = {reward.name: reward.gates for reward in self.rewards}
        for name, gates in waiting.items():
            unknown = sorted(gates - waiting.keys())
            if unknown:
                raise ValueError(
                    f"reward.rewards {name}.requires and .caps must name other rewards of the list, got "
                    f"{unknown[0]!r}; it has {', '.join(waiting)}"
                )
        known: set[str] = set()
        while ready := {name for name, gates in waiting.items() if name not in known and gates <= known}:
            known |= ready
        if known != waiting.keys():
            circle = ", ".join(sorted(waiting.keys() - known))
            raise ValueError(
                f"reward.rewards must not require each other in a circle, got {circle}; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def a_group_has_the_time_of_its_rewards(self) -> Self:
        """Whoever is slow is blamed, not the service."""
        for reward in self.rewards:
            if reward.deadline_s >= self.deadline_s:
                raise ValueError(
                    f"reward.deadline_s must be > the deadline_s of each reward, got {self.deadline_s:g} <= "
                    f"{reward.deadline_s:g} of {reward.name}; raise the one or lower the other"
                )
        return self
