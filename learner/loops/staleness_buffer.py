"""Scored groups that wait to be trained: bounded by who fills it, consumed oldest version first."""

from common.types import Draw, Group


class GroupBuffer:
    """Groups in, batches out; what has become too stale comes out apart."""

    def __init__(self, *, max_staleness: int) -> None:
        self.max_staleness = max_staleness
        self._groups: list[Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    def put(self, group: Group) -> None:
        self._groups.append(group)

    def drop_stale(self, *, learner_version: int) -> list[Group]:
        """Takes out what may not train at this version: `L - min_policy_version` is more than the bound."""
        oldest = learner_version - self.max_staleness
        stale = [g for g in self._groups if g.min_policy_version < oldest]
        self._groups = [g for g in self._groups if g.min_policy_version >= oldest]
        return stale

    def draws(self) -> list[Draw]:
        return [group.prompt.draw for group in self._groups]

    def take(self, count: int) -> list[Group]:
        """The oldest groups: by start version, then by the stream's order, whatever order they came in."""
        assert len(self._groups) >= count, "a batch must be whole"
        self._groups.sort(key=lambda g: (g.min_policy_version, g.prompt.draw.position, g.prompt.draw.draw))
        taken, self._groups = self._groups[:count], self._groups[count:]
        return taken
