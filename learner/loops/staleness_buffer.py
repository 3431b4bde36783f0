"""Scored groups that wait to be trained: bounded by the producer, consumed oldest version first."""

from common.types import Draw, Group


class GroupBuffer:
    """Takes groups and returns batches; groups that have become too stale are returned apart."""

    def __init__(self, *, max_staleness: int) -> None:
        self.max_staleness = max_staleness
        self._groups: list[Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: Group) -> None:
        self._groups.append(group)

    def drop_stale(self, *, learner_version: int) -> list[Group]:
        """Removes and returns groups whose staleness `L - min_policy_version` exceeds the bound."""
        oldest = learner_version - self.max_staleness
        stale = [g for g in self._groups if g.min_policy_version < oldest]
        self._groups = [g for g in self._groups if g.min_policy_version >= oldest]
        return stale

    def draws(self) -> list[Draw]:
        return [group.prompt.draw for group in self._groups]

    def take(self, count: int) -> list[Group]:
        """Removes the oldest groups: by start version, then by stream order, whatever the order of arrival."""
        assert len(self._groups) >= count, "a batch must be whole"
        self._groups.sort(key=lambda g: (g.min_policy_version, g.prompt.draw.position, g.prompt.draw.draw))
        taken, self._groups = self._groups[:count], self._groups[count:]
        return taken
