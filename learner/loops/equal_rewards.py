"""A warning when no group of many steps in a row has rewards that differ: the policy learns nothing from them."""

import logging
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)
MIN_STEPS = 10
"""Steps in a row. Fewer happen by chance when rewards are few and most completions get the same."""


class EqualRewards:
    """Counts the steps in a row in which every group has equal rewards, and warns once."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._has_warned = False

    def note(self, step: int, metrics: Mapping[str, float], *, batch: Path) -> None:
        """Counts a step; `batch` is the file of its samples."""
        self._in_a_row = self._in_a_row + 1 if metrics["reward/equal_groups_fraction"] == 1.0 else 0
        if self._in_a_row < MIN_STEPS or self._has_warned:
            return
        self._has_warned = True
        keys = [key for key in metrics if key.startswith("reward/") and key.endswith("/mean")]
        logger.warning(
            "every group has had equal rewards since step %d (mean %s): the policy learns nothing from them; look "
            "at the samples in %s, then make the cold start longer (sft.steps), raise rollout.sampling.temperature "
            "or rollout.group_size, or choose rewards that differ within a group",
            step - self._in_a_row + 1,
            ", ".join(f"{key.split('/')[1]} {metrics[key]:.2f}" for key in keys),
            batch,
        )
