"""A named actor that serves all runs of a team; it does not need omni-rlvr.

python -m reward.examples.team_actor        starts it on the cluster of $RAY_ADDRESS, or finds it there
- {type: named_actor, name: team, actor: team-reward, namespace: rewards}
"""

from typing import Any

import ray


class TeamReward:
    """Scores mappings, as `POST /v1/score` does."""

    def score(self, samples: list[dict[str, Any]]) -> list[float | None]:
        """1.0 if the completion names the label; None without a label."""
        return [float(s["label"].lower() in s["completion"].lower()) if s["label"] else None for s in samples]


def start() -> Any:
    """Starts the actor, which outlives this process."""
    options: dict[str, Any] = {"name": "team-reward", "namespace": "rewards", "lifetime": "detached", "num_cpus": 0}
    actor: Any = ray.remote(TeamReward)
    return actor.options(**options).remote()


if __name__ == "__main__":
    ray.init(address="auto")
    ray.get(start().score.remote([]))
