"""Metrics of each reward over the groups of a step: latency, errors, and groups without it."""

from collections import Counter

from reward.service import GroupReport


class Observations:
    """Sums over the groups since the last `take`."""

    def __init__(self) -> None:
        self._num_groups: Counter[str] = Counter()
        self._num_completions: Counter[str] = Counter()
        self._num_faults: Counter[str] = Counter()
        self._num_left_out: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._num_answered = self._num_lost = 0

    def add_lost(self) -> None:
        """Counts a group for which the service returned nothing; the reward at fault is unknown."""
        self._num_lost += 1

    def add(self, report: GroupReport, num_completions: int) -> None:
        """Counts a group, scored or failed."""
        self._num_answered += 1
        for name, seconds in report.seconds.items():
            self._num_groups[name] += 1
            self._num_completions[name] += num_completions
            self._seconds[name] += seconds  # pyright: ignore[reportArgumentType] - a counter counts seconds, too
        self._num_faults.update(report.num_faults)
        self._num_left_out.update(report.left_out)

    def take(self) -> dict[str, float]:
        """Returns the metrics and resets the sums.

        `reward/<name>/latency_s` is the mean of seconds per group, `/error_rate` the share of completions on which
        the reward failed, `/left_out_rate` the share of groups in which it does not count. `reward/lost_rate` is
        the share of groups for which the service returned nothing, as it died or hung.
        """
        metrics: dict[str, float] = {}
        num_groups = self._num_answered + self._num_lost
        if num_groups:
            metrics["reward/lost_rate"] = self._num_lost / num_groups
        for name, num_groups in self._num_groups.items():
            metrics[f"reward/{name}/latency_s"] = self._seconds[name] / num_groups
            metrics[f"reward/{name}/error_rate"] = self._num_faults[name] / max(1, self._num_completions[name])
            metrics[f"reward/{name}/left_out_rate"] = self._num_left_out[name] / num_groups
        self.__init__()
        return metrics
