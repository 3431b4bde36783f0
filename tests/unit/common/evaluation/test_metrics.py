"""Shares of clips against their definitions, intervals against plain resampling, significance against fractions."""

import math
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from common.evaluation.bootstrap import NUM_RESAMPLES, resampled
from common.evaluation.confusion import OTHER, Confusion, confusion_of, scores_of, shares_of, total
from common.evaluation.metrics import recognition
from common.evaluation.significance import mcnemar_p, paired_difference
from common.labels import R1_OMNI

CASES = 1_000


def random_case(rng: np.random.Generator) -> tuple[list[str], list[str | None]]:
    """Labels and answers, unevenly spread; some answers are none or outside the classes."""
    num, num_classes = int(rng.integers(1, 200)), int(rng.integers(1, 12))
    shares = rng.dirichlet(np.ones(num_classes))
    labels = [R1_OMNI[i] for i in rng.choice(num_classes, size=num, p=shares)]
    others: list[str | None] = [None, "joyful", ""]
    answers = [
        label if rng.random() < 0.4 else (*R1_OMNI, *others)[rng.integers(len(R1_OMNI) + 3)] for label in labels
    ]
    return labels, answers


def defined(labels: list[str], answers: list[str | None]) -> tuple[Fraction, Fraction, Fraction]:
    """WAR, UAR and macro F1 from their definitions, exactly."""
    pairs = list(zip(labels, answers, strict=True))
    recalls: list[Fraction] = []
    f1s: list[Fraction] = []
    for name in sorted(set(labels)):
        tp = sum(a == b == name for a, b in pairs)
        fn = sum(a == name != b for a, b in pairs)
        fp = sum(b == name != a for a, b in pairs)
        recalls.append(Fraction(tp, tp + fn))
        f1s.append(Fraction(2 * tp, 2 * tp + fp + fn))
    num_right = sum(a == b for a, b in pairs)
    return Fraction(num_right, len(pairs)), sum(recalls) / len(recalls), sum(f1s) / len(f1s)


def test_war_uar_and_macro_f1_are_their_definitions_on_a_thousand_random_cases() -> None:
    rng = np.random.default_rng(0)
    for _ in range(CASES):
        labels, answers = random_case(rng)
        found = shares_of(confusion_of(labels, answers))
        for value, exact in zip(found, defined(labels, answers), strict=True):
            assert abs(value - float(exact)) <= 1e-12


def test_war_uar_and_macro_f1_are_scikit_learns_on_a_thousand_random_cases() -> None:
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        labels, answers = random_case(rng)
        true, said = np.array(labels), np.array([answer or "none" for answer in answers])
        classes = np.unique(true)
        macro: dict[str, Any] = {"average": "macro", "labels": classes, "zero_division": 0.0}
        _, recall, f1, _ = precision_recall_fscore_support(true, said, **macro)
        theirs = (accuracy_score(true, said), recall, f1)
        np.testing.assert_allclose(shares_of(confusion_of(labels, answers)), theirs, rtol=0, atol=1e-12)


def test_scores_by_hand() -> None:
    labels = ["sad"] * 4 + ["happy"] * 2 + ["fear"]
    answers = ["sad", "sad", "sad", "happy", "happy", None, "sad"]
    table = confusion_of(labels, answers)
    assert table.classes == ("fear", "happy", "sad")
    assert table.counts == ((0, 0, 1, 0), (0, 1, 0, 1), (0, 1, 3, 0))
    assert (table.num_clips, table.num_other) == (7, 1)
    found = scores_of([table])
    assert found.war.value == pytest.approx(4 / 7)
    assert found.uar.value == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)
    # sad: TP 3, FP 1, FN 1; happy: TP 1, FP 1, FN 1; fear: TP 0
    assert found.macro_f1.value == pytest.approx((6 / 8 + 2 / 4 + 0) / 3)


def test_a_class_that_is_only_answered_takes_no_part_but_a_row_of_no_clips_may_stand() -> None:
    table = confusion_of(["sad", "fear"], ["happy", "fear"], classes=["happy", "sad", "fear"])
    assert table.counts == ((0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0))
    assert table.recall == {"sad": 0.0, "fear": 1.0}
    assert table.support == {"sad": 1, "fear": 1}
    assert scores_of([table]).uar.value == 0.5


def test_a_label_outside_the_classes_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="must be one of happy, sad, got 'calm'"):
        confusion_of(["calm"], ["happy"], classes=["happy", "sad"])
    assert OTHER not in R1_OMNI


@pytest.mark.parametrize("index", [0, 1, 2])
def test_intervals_are_those_of_plain_resampling(index: int) -> None:
    rng = np.random.default_rng(index)
    labels = [str(x) for x in rng.choice(["sad", "happy", "fear"], size=150, p=[0.7, 0.25, 0.05])]
    answers = [label if rng.random() < 0.6 else "happy" for label in labels]
    plain: list[tuple[float, ...]] = []
    for _ in range(3_000):
        drawn = rng.integers(0, len(labels), len(labels))
        shares = defined([labels[i] for i in drawn], [answers[i] for i in drawn])
        plain.append(tuple(map(float, shares)))
    found = scores_of([confusion_of(labels, answers)])
    low, high = np.percentile(np.array(plain), (2.5, 97.5), axis=0)
    for estimate, plain_low, plain_high in zip((found.war, found.uar, found.macro_f1), low, high, strict=True):
        # each end's own noise: of 3,000 resamples about 0.05 of the interval's width
        slack = 0.12 * (plain_high - plain_low)
        assert estimate.low == pytest.approx(plain_low, abs=slack)
        assert estimate.high == pytest.approx(plain_high, abs=slack)


def test_a_class_that_a_resample_does_not_draw_takes_no_part_in_its_mean() -> None:
    # one clip of fear, always right: a third of the resamples lack it, and their UAR is that of sad alone
    table = confusion_of(["sad"] * 30 + ["fear"], ["happy"] * 30 + ["fear"])
    found = scores_of([table])
    assert (found.uar.value, found.uar.low, found.uar.high) == (0.5, 0.0, 0.5)
    right = scores_of([confusion_of(["sad"] * 30 + ["fear"], ["sad"] * 30 + ["happy"])])
    assert (right.uar.value, right.uar.low, right.uar.high) == (0.5, 0.5, 1.0)


def test_resamples_have_as_many_clips_and_come_in_goes() -> None:
    counts = np.array([3, 0, 5])
    chunks = list(resampled(counts, rng=np.random.default_rng(0), num=50))
    assert np.concatenate(chunks).shape == (50, 3)
    assert (np.concatenate(chunks).sum(axis=1) == 8).all()
    wide = np.ones(2**20, dtype=np.int64)
    sizes = [len(chunk) for chunk in resampled(wide, rng=np.random.default_rng(0), num=9)]
    assert sizes == [8, 1]


def test_the_mean_of_folds_is_the_mean_of_their_values_and_its_interval_is_narrower() -> None:
    first = confusion_of(["sad"] * 30 + ["happy"] * 10, ["sad"] * 40)
    second = confusion_of(["sad"] * 10 + ["happy"] * 10, ["happy"] * 10 + ["sad", "happy"] * 5)
    found, one = scores_of([first, second]), scores_of([second])
    assert found.war.value == pytest.approx((30 / 40 + 5 / 20) / 2)
    assert found.uar.value == pytest.approx((0.5 + 0.25) / 2)
    assert found.war.low < found.war.value < found.war.high
    assert found.war.high - found.war.low < one.war.high - one.war.low
    both = total([first, second])
    assert both.counts == ((5, 15, 0), (10, 30, 0))
    assert scores_of([both]).war.value == pytest.approx(35 / 60)


def test_a_hundred_thousand_clips_are_resampled_from_their_counts() -> None:
    rng = np.random.default_rng(0)
    labels = [R1_OMNI[i] for i in rng.integers(0, 11, 100_000)]
    answers = [R1_OMNI[i] for i in rng.integers(0, 11, 100_000)]
    started = time.process_time()
    found = recognition(labels, answers)
    seconds = time.process_time() - started
    # of a share p = 1/11: 2 x 1.96 x sqrt(p (1 - p) / N)
    assert found.war.high - found.war.low == pytest.approx(2 * 1.96 * math.sqrt(10 / 121 / 100_000), rel=0.05)
    print(f"{NUM_RESAMPLES} resamples of 100,000 clips: {seconds:.2f} s")


def test_many_classes_are_no_more_than_their_cells() -> None:
    rng = np.random.default_rng(1)
    names = [f"emotion {i}" for i in range(150)]
    labels = [names[i] for i in rng.integers(0, 150, 600)]
    answers = [label if rng.random() < 0.5 else names[rng.integers(150)] for label in labels]
    found = scores_of([confusion_of(labels, answers)])
    assert found.war.low < found.war.value < found.war.high


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (0, 5), (6, 6), (3, 9), (40, 71), (2, 30)])
def test_mcnemar_is_the_binomial_sum(only_first: int, only_second: int) -> None:
    total_clips = only_first + only_second
    tail = sum(math.comb(total_clips, k) for k in range(min(only_first, only_second) + 1))
    exact = min(Fraction(1), 2 * Fraction(tail, 2**total_clips))
    assert mcnemar_p(only_first, only_second) == pytest.approx(float(exact), rel=1e-9)


def test_mcnemar_of_many_clips_is_a_number() -> None:
    assert mcnemar_p(50_000, 50_000) == 1.0
    assert 0 <= mcnemar_p(10_000, 90_000) < 1e-300


def test_two_policies_by_hand() -> None:
    labels = ["sad"] * 4 + ["happy"] * 2
    found = paired_difference(
        labels, [True, True, True, False, True, False], [True, False, False, False, True, True]
    )
    assert (found.num_clips, found.only_first_right, found.only_second_right) == (6, 2, 1)
    assert found.war.value == pytest.approx(1 / 6)
    # recalls: sad 3/4 against 1/4, happy 1/2 against 1
    assert found.uar.value == pytest.approx((0.5 - 0.5) / 2)
    assert found.mcnemar_p == 1.0
    assert found.war.low <= found.war.value <= found.war.high


def test_a_clear_difference_is_significant_and_none_is_not() -> None:
    labels = ["sad", "happy"] * 100
    better, worse = [True] * 180 + [False] * 20, [True] * 120 + [False] * 80
    found = paired_difference(labels, better, worse)
    assert found.mcnemar_p < 1e-6
    assert found.uar_p == pytest.approx(2 / (NUM_RESAMPLES + 1))
    assert found.uar.low > 0
    same = paired_difference(labels, better, better)
    assert (same.mcnemar_p, same.uar_p) == (1.0, 1.0)
    assert (same.war.low, same.war.high) == (0.0, 0.0)


def test_the_uar_difference_is_resampled_in_pairs() -> None:
    # both err on the same clips but for a few: unpaired, the interval would be far wider
    rng = np.random.default_rng(0)
    labels = ["sad", "happy"] * 500
    first = [bool(x) for x in rng.random(1000) < 0.5]
    second = [not x if i % 50 == 0 else x for i, x in enumerate(first)]
    found = paired_difference(labels, first, second)
    # 20 clips of 1000 differ: 1.96 x 2 x sqrt(0.02 / 1000)
    assert found.uar.high - found.uar.low == pytest.approx(2 * 1.96 * math.sqrt(0.02 / 1000), rel=0.15)


def test_a_difference_over_folds_is_the_mean_of_theirs_as_scores_are() -> None:
    # of unequal size: 40 clips on which the first is better, 4 on which the second is
    labels = [*["sad", "happy"] * 20, *["sad", "happy"] * 2]
    first = [*[True] * 40, *[False] * 4]
    second = [*[True, False] * 20, *[True] * 4]
    folds = [*[1] * 40, *[2] * 4]
    found = paired_difference(labels, first, second, folds=folds)
    assert found.war.value == pytest.approx((0.5 - 1.0) / 2), "not 16/44, which clips alone would give"
    assert found.uar.value == pytest.approx((0.5 - 1.0) / 2)
    assert (found.num_clips, found.only_first_right, found.only_second_right) == (44, 20, 4)
    assert found.mcnemar_p == mcnemar_p(20, 4)
    # the second fold never varies, so that the interval is half as wide as the first's
    alone = paired_difference(labels[:40], first[:40], second[:40])
    width = found.war.high - found.war.low
    assert width == pytest.approx((alone.war.high - alone.war.low) / 2, rel=0.1)
    assert found.war.high < 0
    each = [
        scores_of(
            [
                confusion_of(labels[i:j], [labels[k] if r[k] else None for k in range(i, j)])
                for i, j in ((0, 40), (40, 44))
            ]
        )
        for r in (first, second)
    ]
    assert found.war.value == pytest.approx(each[0].war.value - each[1].war.value)


def test_two_policies_on_other_clips_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="same clips on both sides"):
        paired_difference(["sad"], [True], [True, False])


def test_a_table_of_a_class_without_clips_is_the_same_table() -> None:
    small = Confusion(classes=("a", "b"), cells={(0, 0): 3, (0, 1): 1, (1, 1): 2, (1, 2): 1})
    large = Confusion(classes=("a", "never", "b"), cells={(0, 0): 3, (0, 2): 1, (2, 2): 2, (2, 3): 1})
    assert small.counts == ((3, 1, 0), (0, 2, 1))
    assert large.counts == ((3, 0, 1, 0), (0, 0, 0, 0), (0, 0, 2, 1))
    assert scores_of([small]) == scores_of([large])
