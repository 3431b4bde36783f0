"""Every error this project raises on purpose. All survive pickling: they cross processes.

OmniError
├── UserError                a mistake the user can correct; one line; exit code 2
│   ├── ConfigError          a value in the configuration
│   ├── ModelError           a model folder
│   ├── DatasetError         a corpus
│   ├── LedgerError          the ledger that an earlier attempt left
│   └── ClusterError         what the cluster cannot give
├── MediaError               one clip; becomes a reason in the ledger, never stops a run
├── FleetError               too few rollout engines that can still start
├── EngineError              a rollout engine
│   ├── EngineStartError     an engine that could not start
│   ├── RequestRefusedError  a request that a living engine refused
│   └── ReceiveError         weights that did not arrive whole
├── LearnerError             a learner rank
├── CheckpointError          a checkpoint that could not be written
├── RewardError              the reward service
├── ScoringError             one completion that a reward could not score; fails its group as data
├── StopRequestedError       a run that was asked to stop
├── PublishError             a publish that failed one of its proofs
└── NonFiniteError           a loss or gradient that is not a number
"""

from __future__ import annotations

from typing import Any


class OmniError(Exception):
    """Root of the tree; carries its constructor's arguments through pickling."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[OmniError], args: tuple[Any, ...], state: dict[str, Any]) -> OmniError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class UserError(OmniError):
    """A mistake of the user: one line and exit code 2."""


class ConfigError(UserError):
    """A message `<key> must <rule>, got <value>; <remedy>`."""


class ModelError(UserError):
    """A model folder that is missing, incomplete or of another architecture."""


class DatasetError(UserError):
    """A corpus that is missing, empty or malformed."""


class LedgerError(UserError):
    """A ledger that cannot be read."""


class ClusterError(UserError):
    """A requirement that the cluster cannot meet."""


class MediaError(OmniError):
    """One clip could not be used.

    Attributes:
        reason: the short name that the ledger counts, such as `undecodable`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class FleetError(OmniError):
    """Too few slots of the fleet can still have an engine."""


class EngineError(OmniError):
    """A rollout engine failed outside any one request."""


class EngineStartError(EngineError):
    """A rollout engine could not start.

    Attributes:
        is_killed: a signal ended one of its processes, so that another start may succeed.
    """

    def __init__(self, message: str, *, is_killed: bool = False) -> None:
        super().__init__(message)
        self.is_killed = is_killed


class RequestRefusedError(EngineError):
    """A living engine refused one request."""


class ReceiveError(EngineError):
    """A worker received weights that it must not load."""


class LearnerError(OmniError):
    """A learner rank failed or died; the others cannot continue without it."""


class CheckpointError(OmniError):
    """A checkpoint could not be written; the run could not return to this state."""


class RewardError(OmniError):
    """The reward service died; without it no group can be trained."""


class ScoringError(OmniError):
    """A reward could not score one completion, for a reason outside the configuration; its group fails as data."""


class StopRequestedError(OmniError):
    """A request to stop the run, by Ctrl-C or SIGTERM."""


class PublishError(OmniError):
    """A publish failed a proof or a phase.

    Attributes:
        proof: `receipt`, `rehearsal`, `canary`, or the phase that failed (`pause`, `update`, ...).
        engine: the engine's name.
        subject: the tensor, layer or component at fault.
    """

    def __init__(self, message: str, *, proof: str, engine: str, subject: str) -> None:
        super().__init__(message)
        self.proof = proof
        self.engine = engine
        self.subject = subject


class NonFiniteError(OmniError):
    """A step had a loss or gradient that is not finite."""


def last_line(error: BaseException) -> str:
    """The last line of an error's text, which names the cause in a remote traceback; its type if there is no
    text.
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
