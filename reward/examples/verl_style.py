"""A reward as verl calls it.

- {type: python, name: mention, entrypoint: "reward.examples.verl_style:compute_score"}
"""

from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> dict[str, float]:
    """True if the label is mentioned, with the number of mentions as a logged fact."""
    num_mentions = solution_str.lower().count(ground_truth.lower()) if ground_truth else 0
    return {"score": float(num_mentions > 0), "num_mentions": float(num_mentions)}
