"""Receipts and agreements."""

import math

import pytest

from common.errors import PublishError
from common.types import TensorReceipt
from learner.publishing.verification import agreement_of, check_receipt, evidence_of, num_bytes
from tests.support.builders import make_receipt

NAMES = ("a", "b", "c")
SENT = [make_receipt(n, digest=f"0{n}") for n in NAMES]


def complaint(manifest: list[TensorReceipt], receipt: list[TensorReceipt]) -> PublishError:
    """What `check_receipt` raises."""
    with pytest.raises(PublishError) as caught:
        check_receipt(NAMES, manifest, receipt, engine="engine-7")
    assert (caught.value.proof, caught.value.engine) == ("receipt", "engine-7")
    assert "engine-7" in str(caught.value)
    return caught.value


def test_what_arrived_as_sent_passes_in_any_order() -> None:
    check_receipt(NAMES, SENT, list(reversed(SENT)), engine="e")


@pytest.mark.parametrize("index", range(3))
def test_a_skipped_tensor_is_named(index: int) -> None:
    part = [r for r in SENT if r.name != NAMES[index]]
    error = complaint(part, part)
    assert error.subject == NAMES[index]
    assert "skipped" in str(error)


@pytest.mark.parametrize("index", range(3))
def test_a_tensor_that_was_never_loaded_is_named(index: int) -> None:
    error = complaint(SENT, [r for r in SENT if r.name != NAMES[index]])
    assert error.subject == NAMES[index]
    assert "never loaded" in str(error)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"digest": "ff"}, "float32[2, 2] ff for float32[2, 2] 0b"),
        ({"dtype": "bfloat16"}, "bfloat16[2, 2] 0b for float32[2, 2] 0b"),
        ({"shape": (4,)}, "float32[4] 0b for float32[2, 2] 0b"),
    ],
)
def test_a_tensor_that_changed_on_its_way_is_named_with_both_values(change: dict[str, object], shown: str) -> None:
    changed = make_receipt("b", **({"digest": "0b"} | change))  # pyright: ignore[reportArgumentType]
    error = complaint(SENT, [SENT[0], changed, SENT[2]])
    assert error.subject == "b"
    assert shown in str(error)


def test_a_tensor_outside_the_plan_is_named() -> None:
    extra = make_receipt("stranger")
    assert complaint([*SENT, extra], [*SENT, extra]).subject == "stranger"
    assert complaint(SENT, [*SENT, extra]).subject == "stranger"
    assert complaint([*SENT, extra], SENT).subject == "stranger"


def test_a_tensor_that_came_twice_is_refused() -> None:
    assert "twice" in str(complaint(SENT, [*SENT, SENT[1]]))
    assert "twice" in str(complaint([*SENT, SENT[1]], SENT))


def test_agreement_by_hand() -> None:
    got = agreement_of([[0.1, 0.3], [0.2]])
    assert got.mean == pytest.approx(0.2)
    assert got.max == 0.3
    assert got.by_probe == (0.3, 0.2)


@pytest.mark.parametrize(
    "differences", [[[math.nan, 0.1], [0.2]], [[0.1, math.nan], [0.2]], [[0.1], [0.2, math.nan]]]
)
def test_nan_wins_over_any_number(differences: list[list[float]]) -> None:
    got = agreement_of(differences)
    assert math.isnan(got.max)
    assert math.isnan(got.mean)
    assert [math.isnan(v) for v in got.by_probe] == [any(map(math.isnan, p)) for p in differences]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        ("float32", 4),
        ("bfloat16", 2),
        ("float16", 2),
        ("float8_e4m3fn", 1),
        ("int8", 1),
        ("bool", 1),
        ("float64", 8),
    ],
)
def test_bytes_of_a_receipt(dtype: str, size: int) -> None:
    assert num_bytes(make_receipt("a", shape=(3, 5), dtype=dtype)) == 15 * size
    assert num_bytes(make_receipt("a", shape=(), dtype=dtype)) == size


def test_evidence_by_hand() -> None:
    # four tokens, rounding of 0.1 each; the layer would move two of them by 1
    rounding, stale = [0.1, -0.1, 0.1, -0.1], [1.0, 0.0, 1.0, 0.0]
    got = evidence_of([rounding], [stale])
    # |d|^2 = 0.04, |d - q|^2 = 0.81 + 0.01 + 0.81 + 0.01, s^2 = 0.01, |q|^2 = 2
    assert got.gain == pytest.approx((1.64 - 0.04) / 0.02)
    assert got.power == pytest.approx(200.0)
    assert got.score == pytest.approx(80 / 200**0.5)
    assert got.num_tokens == 4
    assert not got.is_clear, "5.7 standard errors are not enough"
    assert evidence_of([rounding], [[2.0, 0.0, 2.0, 0.0]]).is_followed
    kept = [d + 2 * q for d, q in zip(rounding, stale, strict=True)]
    assert evidence_of([kept], [[2.0, 0.0, 2.0, 0.0]]).is_stale


def test_a_probe_on_which_a_layer_has_no_effect_is_no_evidence() -> None:
    alone = evidence_of([[0.1, -0.1]], [[3.0, 3.0]])
    assert evidence_of([[0.1, -0.1], [0.7, 0.7]], [[3.0, 3.0], [0.0, 0.0]]) == alone
    nothing = evidence_of([[0.1, -0.1]], [[0.0, 0.0]])
    assert (nothing.score, nothing.is_clear) == (0.0, False)


def test_a_layer_smaller_than_rounding_is_not_clear_however_many_tokens() -> None:
    rounding = [0.1, -0.1] * 5000
    got = evidence_of([rounding], [[0.09] * 10_000])
    assert got.score > 6
    assert not got.is_clear


@pytest.mark.parametrize("rounding", [[math.nan, 0.1], [0.1, math.nan]])
def test_nan_is_no_evidence(rounding: list[float]) -> None:
    got = evidence_of([rounding], [[1.0, 1.0]])
    assert not got.is_followed
    assert not got.is_stale
