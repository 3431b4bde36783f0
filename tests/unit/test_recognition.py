"""WAR and UAR against values by hand, and their intervals."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.evaluation.metrics import recognition
from common.labels import DFEW, R1_OMNI, TAXONOMIES, answer_of, has_form
from reward.builtin.format import PublishedFormatReward
from tests.support.builders import make_request

CLASSES = ("sad", "happy", "fear")


def test_war_and_uar_by_hand() -> None:
    labels = ["sad"] * 4 + ["happy"] * 2 + ["fear"]
    answers = ["sad", "sad", "sad", "happy", "happy", "sad", "sad"]
    found = recognition(labels, answers)
    assert found.num_clips == 7
    assert found.war.value == pytest.approx(4 / 7)
    assert found.recall == {"sad": 0.75, "happy": 0.5, "fear": 0.0}
    assert found.uar.value == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert found.support == {"sad": 4, "happy": 2, "fear": 1}


def test_a_class_that_does_not_occur_has_no_recall() -> None:
    # "happy" is only answered, never a label: it takes no part in the mean
    found = recognition(["sad", "sad", "fear"], ["sad", "happy", "fear"])
    assert set(found.recall) == {"sad", "fear"}
    assert found.uar.value == pytest.approx((0.5 + 1.0) / 2)


def test_no_answer_and_an_unknown_answer_are_wrong() -> None:
    found = recognition(["sad", "sad", "happy", "happy"], [None, "sad", "joyful", ""])
    assert (found.war.value, found.uar.value) == (0.25, 0.25)
    assert found.recall == {"sad": 0.5, "happy": 0.0}


def test_nothing_to_compare_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="must have clips"):
        recognition([], [])
    with pytest.raises(ValueError, match="zip"):
        recognition(["sad", "sad"], ["sad"])


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from([*CLASSES, None])), min_size=1, max_size=40))
def test_both_are_those_of_the_slow_reference_and_lie_in_their_intervals(
    pairs: list[tuple[str, str | None]],
) -> None:
    labels, answers = [p[0] for p in pairs], [p[1] for p in pairs]
    found = recognition(labels, answers)
    occurring = sorted(set(labels))
    recalls = [sum(a == b == c for b, a in pairs) / labels.count(c) for c in occurring]
    assert found.war.value == pytest.approx(sum(a == b for b, a in pairs) / len(pairs))
    assert found.uar.value == pytest.approx(sum(recalls) / len(recalls))
    for estimate in (found.war, found.uar):
        assert 0 <= estimate.low <= estimate.high <= 1
    assert found.war.low <= found.war.value <= found.war.high


def test_an_interval_contains_the_value_and_shrinks_as_one_over_the_root_of_n() -> None:
    widths: list[list[float]] = []
    for times in (1, 16):
        labels = ["sad", "sad", "happy", "happy", "fear", "fear", "fear", "fear"] * 4 * times
        answers = ["sad", "happy", "happy", None, "fear", "fear", "sad", "happy"] * 4 * times
        found = recognition(labels, answers)
        assert found.war.low < found.war.value == 0.5 < found.war.high
        assert found.uar.low < found.uar.value == 0.5 < found.uar.high
        widths.append([found.war.high - found.war.low, found.uar.high - found.uar.low])
    # of a binomial share 1/2 over 32 clips: 2 x 1.96 x sqrt(0.25 / 32)
    assert widths[0][0] == pytest.approx(0.346, abs=0.04)
    for first, second in zip(*widths, strict=True):
        assert first / second == pytest.approx(4.0, rel=0.15)


def test_all_right_and_all_wrong_leave_no_room() -> None:
    right = recognition(["sad", "happy"] * 9, ["sad", "happy"] * 9)
    assert (right.war.low, right.war.high, right.uar.low) == (1.0, 1.0, 1.0)
    wrong = recognition(["sad", "happy"] * 9, [None] * 18)
    assert (wrong.war.low, wrong.war.high, wrong.uar.high) == (0.0, 0.0, 0.0)


def test_the_same_answers_have_the_same_interval() -> None:
    # classes of such sizes that hardly two resamples have the same UAR
    labels = ["sad"] * 97 + ["happy"] * 41 + ["fear"] * 13
    answers = ["sad", "happy", "fear"] * 50 + ["fear"]
    assert recognition(labels, answers) == recognition(labels, answers)
    assert recognition(labels, answers, seed=1).uar != recognition(labels, answers).uar


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>x</think>\n<answer>sad</answer>", "sad"),
        ("<answer> Sad\n</answer> and more", "sad"),
        ("<answer>a\nb</answer><answer>c</answer>", "a\nb"),
        ("Happy ", "happy"),
        ("<answer>sad", "<answer>sad"),
        ("", ""),
    ],
)
def test_an_answer_is_what_stands_in_its_tag_or_all_there_is(completion: str, answer: str) -> None:
    assert answer_of(completion) == answer


@pytest.mark.parametrize(
    ("completion", "form"),
    [
        ("<think>a\nb</think>\n<answer>c</answer>", True),
        ("<think>a</think><answer>b</answer>.", False),
        ("<answer>b</answer>", False),
    ],
)
def test_reward_and_evaluation_mean_the_same_form(completion: str, form: bool) -> None:
    assert has_form(completion) is form
    assert PublishedFormatReward()(make_request(completion)) == float(form)


def test_no_other_module_spells_the_form_of_an_answer() -> None:
    root = Path(__file__).parents[2]
    spelled = {
        path.relative_to(root).as_posix()
        for package in ("common", "learner", "rollout", "reward", "deploy")
        for path in (root / package).rglob("*.py")
        if "<answer>(" in path.read_text() or "<answer>." in path.read_text()
    }
    # the published rewards quote theirs
    assert spelled == {"common/labels.py", "reward/builtin/accuracy_r1omni.py", "reward/builtin/format.py"}


def test_the_taxonomies_are_those_of_the_papers() -> None:
    assert len(DFEW) == len(set(DFEW)) == 7
    assert len(R1_OMNI) == len(set(R1_OMNI)) == 11
    assert R1_OMNI[:7] == DFEW
    assert set(TAXONOMIES) == {"dfew", "mafw", "mafw_compound", "r1_omni", "ravdess", "ravdess7", "mer", "open"}
    # the evaluation compares in lower case
    assert all(label == answer_of(f"<answer>{label}</answer>") for label in R1_OMNI)
