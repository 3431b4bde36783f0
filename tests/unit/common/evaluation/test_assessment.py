"""What predictions come to: exact and normalised, what could not be read, folds, conditions, the wheel."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import DatasetError
from common.evaluation.assessment import Assessment, assess, read_all, verbatim_answer
from common.evaluation.comparison import contributions, run_differences
from common.evaluation.predictions import Prediction
from common.evaluation.wheel import sectors_in, wheel_scores
from reward.builtin.accuracy_r1omni import PublishedAccuracyReward
from reward.request import RewardRequest
from tests.support.builders import make_record


def said(text: str, *, label: str = "sad", name: str = "", **more: Any) -> Prediction:
    """A completion, as it is."""
    values: dict[str, Any] = {"dataset": "dfew", "fold": None} | more
    return Prediction(id=name or f"{label} {text}", label=label, text=text, place="p.jsonl:1", **values)


def answer(word: str, *, label: str = "sad", **more: Any) -> Prediction:
    """In the paper's form."""
    return said(f"<think>Hm.</think><answer>{word}</answer>", label=label, **more)


def only(predictions: Sequence[Prediction], **more: Any) -> Assessment:
    """The one group's."""
    (found,) = assess(predictions, **more)
    return found


def test_exact_and_normalised_stand_side_by_side() -> None:
    found = only([answer("sad"), answer("Sadness"), answer("SAD"), answer("angry"), answer("anger", label="angry")])
    assert found.exact.war.value == pytest.approx(1 / 5)
    assert found.normalised.war.value == pytest.approx(4 / 5)
    # exact: sad 1 of 4, angry 0 of 1; normalised: sad 3 of 4, angry 1 of 1
    assert found.exact.uar.value == pytest.approx((1 / 4 + 0) / 2)
    assert found.normalised.uar.value == pytest.approx((3 / 4 + 1) / 2)


def test_a_label_in_another_form_is_the_same_class_but_not_the_same_text() -> None:
    found = only([answer("sad", label="sadness")])
    assert (found.normalised.war.value, found.exact.war.value) == (1.0, 0.0)
    assert found.confusion.support == {"sad": 1}


@example("<answer>sad\n</answer>", "sad")
@example("<answer>x\n</answer><answer>sad</answer>", "sad")
@given(st.text(alphabet="<answer>/ \nsad", max_size=60), st.sampled_from(["sad", "<answer> sad </answer>"]))
def test_the_letter_is_that_of_the_papers_reward(text: str, label: str) -> None:
    request = RewardRequest(completion=text, token_ids=(), record=make_record(label=label), modalities=())
    assert (verbatim_answer(text) == verbatim_answer(label)) is (PublishedAccuracyReward()(request) == 1.0)


@pytest.mark.parametrize(
    ("text", "is_unparsed", "is_outside"),
    [
        ("<think>x</think><answer>sad</answer>", False, False),
        ("sad", False, False),
        ("Sadness.", False, False),
        ("", True, False),
        ("<answer></answer>", True, False),
        ("<think>It rains.", True, False),
        # names a class, but never came to an answer
        ("<think>The face is sad, the voice is sad.", True, False),
        ("<think>She is sad.</think>", True, False),
        ("I cannot tell.", True, False),
        ("<answer>contemptuous</answer>", False, True),
        ("<answer>sad or happy</answer>", False, True),
        ("<answer>purple</answer>", False, True),
    ],
)
def test_what_cannot_be_read_is_told_from_what_names_no_class(
    text: str, is_unparsed: bool, is_outside: bool
) -> None:
    found = only([said(text), answer("happy", label="happy")])
    assert (found.unparsed_rate, found.out_of_vocabulary_rate) == (0.5 * is_unparsed, 0.5 * is_outside)
    assert found.confusion.num_other == is_unparsed + is_outside
    assert found.normalised.war.value == (0.5 if is_unparsed or is_outside else 1.0)


def test_failures_and_forms_are_counted_and_a_failure_is_wrong() -> None:
    found = only([answer("sad"), said("sad"), said("", failure="media/missing: gone", name="x")])
    assert (found.num_clips, found.num_failed) == (3, 1)
    assert found.form_rate == pytest.approx(1 / 3)
    assert found.normalised.war.value == pytest.approx(2 / 3)


def test_folds_are_scored_apart_and_their_mean_is_the_score() -> None:
    first = [answer("sad", fold=1, name=str(i)) for i in range(3)]
    second = [answer("happy", fold=2, name="3")]
    found = only([*second, *first])
    assert [(f.fold, f.num_clips, f.scores.war.value) for f in found.folds] == [(1, 3, 1.0), (2, 1, 0.0)]
    assert found.normalised.war.value == 0.5, "not 3/4, which clips alone would give"
    assert found.confusion.num_clips == 4
    with pytest.raises(DatasetError, match="must have a fold, or none"):
        assess([*first, answer("sad", name="y")])


def test_datasets_and_conditions_are_apart_in_their_order() -> None:
    found = assess(
        [
            answer("sad", dataset="MAFW", name="a"),
            answer("happy", condition="video_only", name="a"),
            answer("sad", name="a", policy_version=4),
        ]
    )
    assert [(a.dataset, a.condition, a.taxonomy) for a in found] == [
        ("MAFW", "av", "mafw"),
        ("dfew", "video_only", "dfew"),
        ("dfew", "av", "dfew"),
    ]
    assert [a.normalised.war.value for a in found] == [1.0, 0.0, 1.0]
    assert found[2].policy_versions == (4,)


def test_a_label_or_a_taxonomy_that_is_not_known_is_refused_with_its_place() -> None:
    with pytest.raises(DatasetError, match=r"p\.jsonl:1: a label must be of the taxonomy dfew .*got 'helpless'"):
        assess([answer("sad", label="helpless")])
    with pytest.raises(DatasetError, match=r"p\.jsonl:1: a taxonomy must be one of dfew.*got 'mine'"):
        assess([answer("sad", dataset="mine")])
    assert only([answer("sad", dataset="mine")], taxonomy="dfew").taxonomy == "dfew"
    assert only([answer("sad", dataset="mine", taxonomy="mafw")]).taxonomy == "mafw"
    with pytest.raises(DatasetError, match="must have one taxonomy, got dfew, mafw"):
        assess([answer("sad", name="a"), answer("sad", name="b", taxonomy="mafw")])


def test_open_labels_are_classes_of_their_own_and_sectors_of_the_wheel() -> None:
    predictions = [
        answer("furious", label="angry"),
        answer("lonely and guilty", label="sad", labels=("sad", "ashamed")),
        answer("wistful", label="wistful"),
    ]
    found = only(predictions, taxonomy="open")
    assert found.out_of_vocabulary_rate is None
    assert found.normalised.war.value == pytest.approx(2 / 3)
    assert found.wheel is not None
    assert found.wheel.f1.value == 1.0
    assert only([answer("sad")]).wheel is None


def test_the_wheel_by_hand() -> None:
    clips = [
        (["angry", "sad"], "<answer>furious, happy and excited</answer>"),
        (["fear"], "<answer>not afraid but surprised</answer>"),
        (["happy"], ""),
    ]
    found = wheel_scores(clips)
    # anger of {anger, sadness} and of {anger, joy}; nothing; nothing said
    assert found.precision.value == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found.recall.value == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert found.f1.value == pytest.approx(1 / 6)
    assert found.f1.low <= found.f1.value <= found.f1.high


def test_sectors_are_those_of_what_is_named_and_not_denied() -> None:
    assert sectors_in("She is glad, not angry, and 害怕.") == {"joy", "fear"}
    assert sectors_in("furious, then annoyed") == {"anger"}
    assert sectors_in("The sky is blue.") == frozenset()


def test_a_condition_is_held_against_the_clips_as_given() -> None:
    given_ = [answer("sad", name=str(i)) for i in range(10)]
    mute = [answer("sad" if i < 4 else "fear", name=str(i), condition="video_only") for i in range(10)]
    (found,) = contributions(read_all([*mute, *given_]))
    assert (found.condition, found.against) == ("video_only", "av")
    assert found.difference.war.value == pytest.approx(-0.6)
    assert found.difference.mcnemar_p == pytest.approx(2 / 2**6)


@pytest.mark.parametrize("condition", ["av", "audio_only"])
def test_conditions_of_other_clips_are_refused(condition: str) -> None:
    clips = [answer("sad", name=name, fold=fold, condition=condition) for fold in (1, 2) for name in "ab"]
    fewer = [answer("sad", name=p.id, fold=p.fold, condition="video_only") for p in clips]
    assert len(contributions(read_all([*clips, *fewer]))) == (condition == "av")
    with pytest.raises(
        DatasetError, match=f"conditions must have the same clips .* 'b' of dfew, fold 2, in {condition} alone"
    ):
        contributions(read_all([*clips, *fewer[:-1]]))
    with pytest.raises(DatasetError, match="in video_only alone"):
        contributions(read_all([*clips[:-1], *fewer]))
    other = [*fewer[:-1], answer("x", name="b", fold=2, condition="video_only", label="fear")]
    with pytest.raises(DatasetError, match="conditions must have the same labels"):
        contributions(read_all([*clips, *other]))


def test_a_condition_of_several_folds_is_held_against_them_fold_by_fold() -> None:
    def asked(num_right: int, num: int, **more: Any) -> list[Prediction]:
        return [answer("sad" if i < num_right else "fear", name=str(i), **more) for i in range(num)]

    given_ = [*asked(30, 40, fold=1), *asked(1, 4, fold=2)]
    mute = [*asked(10, 40, fold=1, condition="video_only"), *asked(3, 4, fold=2, condition="video_only")]
    predictions = [*given_, *mute]
    (found,) = contributions(read_all(predictions))
    as_given, without = assess(predictions)
    assert found.difference.war.value == pytest.approx(without.normalised.war.value - as_given.normalised.war.value)
    assert found.difference.war.value == pytest.approx((-20 / 40 + 2 / 4) / 2)


def test_two_runs_are_compared_on_the_same_clips_alone() -> None:
    ours = read_all([answer("sad", name="a"), answer("fear", name="b")])
    theirs = read_all([answer("fear", name="b"), answer("fear", name="a")])
    (found,) = run_differences(ours, theirs, against="other")
    assert found.difference is not None
    assert (found.against, found.difference.war.value, found.difference.only_first_right) == ("other", 0.5, 1)
    with pytest.raises(DatasetError, match="the same clips to be compared, got 'b' of dfew in this one alone"):
        run_differences(ours, theirs[1:], against="other")
    with pytest.raises(DatasetError, match="the same clips to be compared, got 'b' of dfew in other alone"):
        run_differences(ours[:1], theirs, against="other")
    with pytest.raises(
        DatasetError, match="the same labels to be compared, got 'fear' in other and 'sad' in this one"
    ):
        run_differences(
            ours, read_all([answer("x", name="a"), answer("x", name="b", label="fear")]), against="other"
        )
    with pytest.raises(DatasetError, match=r"a dataset and condition of the predictions \(dfew av\), got mafw av"):
        run_differences(ours, read_all([answer("sad", name="a", dataset="mafw")]), against="other")
