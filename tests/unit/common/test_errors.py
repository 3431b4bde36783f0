"""Errors cross processes: each arrives as it left."""

import copy
import pickle
from collections.abc import Iterator

import pytest

import common.errors
from common.errors import MediaError, OmniError, PublishError, UserError


def tree(kind: type[OmniError] = OmniError) -> Iterator[type[OmniError]]:
    """Every class of ours."""
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


CLASSES = sorted({k for k in tree() if k.__module__ == "common.errors"}, key=lambda k: k.__name__)
MORE = {
    MediaError: {"reason": "undecodable"},
    PublishError: {"proof": "receipt", "engine": "engine-0", "subject": "thinker.lm_head.weight"},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.__name__)
@pytest.mark.parametrize("how", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_an_error_survives_its_journey(kind: type[OmniError], how: object) -> None:
    error = kind("what happened", **MORE.get(kind, {}))
    error.add_note("on rank 1")
    got = how(error)  # pyright: ignore[reportCallIssue]
    assert type(got) is kind
    assert str(got) == "what happened"
    assert got.args == error.args
    assert got.__dict__ == error.__dict__
    for name, value in MORE.get(kind, {}).items():
        assert getattr(got, name) == value
    assert got.__notes__ == ["on rank 1"]


def test_the_tree_is_all_there() -> None:
    names = {k.__name__ for k in CLASSES}
    assert {"UserError", "MediaError", "EngineError", "ReceiveError", "LearnerError", "PublishError"} <= names


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.__name__)
def test_the_drawing_shows_every_error(kind: type[OmniError]) -> None:
    assert common.errors.__doc__ is not None
    assert kind.__name__ in common.errors.__doc__


def test_only_a_users_mistake_is_a_user_error() -> None:
    mistakes = {k.__name__ for k in CLASSES if issubclass(k, UserError)}
    assert mistakes == {"UserError", "ConfigError", "ModelError", "DatasetError", "LedgerError", "ClusterError"}
