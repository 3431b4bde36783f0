"""Published figures to compare with, their sources and caveats."""

from dataclasses import dataclass

R1_OMNI_README = "R1-Omni README, HumanMLLM/R1-Omni at 17cafca"
HUMAN_OMNI_README = "HumanOmni README, HumanMLLM/HumanOmni at 26fa491"
SECOND_HAND = "second-hand, not checked against the original"
WIZWAND = "wizwand listing, not verified"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A method's published value on one dataset, in percent; None if not published."""

    method: str
    dataset: str
    """`dfew`, `mafw` or `ravdess`."""
    war: float | None
    uar: float | None
    source: str
    note: str = ""


def _row(method: str, dataset: str, war: float | None, uar: float | None, source: str, note: str = "") -> Published:
    return Published(method=method, dataset=dataset, war=war, uar=uar, source=source, note=note)


PAPER: tuple[Published, ...] = (
    _row("HumanOmni-0.5B", "dfew", 22.64, 19.44, R1_OMNI_README, "no training, no label list"),
    _row("EMER-SFT", "dfew", 38.66, 35.31, R1_OMNI_README, "cold start alone"),
    _row("MAFW-DFEW-SFT", "dfew", 60.23, 44.39, R1_OMNI_README, "1 epoch, labels without reasoning"),
    _row("R1-Omni", "dfew", 65.83, 56.27, R1_OMNI_README),
    _row("HumanOmni-0.5B", "mafw", 20.18, 13.52, R1_OMNI_README, "no training, no label list"),
    _row("EMER-SFT", "mafw", 38.39, 28.02, R1_OMNI_README, "cold start alone"),
    _row("MAFW-DFEW-SFT", "mafw", 50.44, 30.39, R1_OMNI_README, "1 epoch, labels without reasoning"),
    _row("R1-Omni", "mafw", 57.68, 40.04, R1_OMNI_README),
    _row("HumanOmni-0.5B", "ravdess", 7.33, 9.38, R1_OMNI_README, "not trained on RAVDESS"),
    _row("EMER-SFT", "ravdess", 29.00, 27.19, R1_OMNI_README, "not trained on RAVDESS"),
    _row(
        "MAFW-DFEW-SFT", "ravdess", 29.33, 30.75, R1_OMNI_README, "the UAR fits no even split: perhaps a misprint"
    ),
    _row("R1-Omni", "ravdess", 43.00, 44.69, R1_OMNI_README, "not trained on RAVDESS"),
)
"""R1-Omni's own table (arXiv 2503.05379)."""

OTHERS: tuple[Published, ...] = (
    _row("HumanOmni-7B", "dfew", 82.46, 74.86, HUMAN_OMNI_README, "one random fold; fits no official test set"),
    _row("MMA-DFER", "dfew", 77.43, 66.85, HUMAN_OMNI_README),
    _row("Emotion-LLaMA, tuned", "dfew", 77.06, 64.21, HUMAN_OMNI_README),
    _row("Emotion-LLaMA, zero-shot", "dfew", 59.37, 45.59, HUMAN_OMNI_README, "disputed: users measure far less"),
    _row("HiCMAE", "dfew", 75.01, 63.76, HUMAN_OMNI_README),
    _row("MAE-DFER", "dfew", 74.43, 63.41, HUMAN_OMNI_README),
    _row("DFER-CLIP", "dfew", 71.25, 59.61, HUMAN_OMNI_README),
    _row("S4D", "dfew", 76.68, None, SECOND_HAND),
    _row("GPT-4o", "dfew", 57.19, 50.57, HUMAN_OMNI_README),
    _row("Qwen2-VL-7B", "dfew", 52.83, 43.08, HUMAN_OMNI_README),
    _row("R1-Omni, retrained by others", "dfew", None, 69.69, WIZWAND, "size unknown, probably 7B"),
    _row("MIGR", "dfew", None, 67.78, WIZWAND),
    _row("HumanOmni-7B", "mafw", 68.40, 52.94, HUMAN_OMNI_README, "one random fold"),
    _row("MMA-DFER", "mafw", 58.45, 44.25, HUMAN_OMNI_README),
    _row("HiCMAE", "mafw", 56.17, 42.65, HUMAN_OMNI_README),
    _row("MAE-DFER", "mafw", 54.31, 41.62, HUMAN_OMNI_README),
    _row("DFER-CLIP", "mafw", 52.55, 38.89, HUMAN_OMNI_README),
    _row("S4D", "mafw", 58.44, None, SECOND_HAND),
    _row("GPT-4o", "mafw", 48.82, 38.29, HUMAN_OMNI_README),
    _row("Qwen2-VL-7B", "mafw", 45.89, 31.67, HUMAN_OMNI_README),
    _row("R1-Omni, retrained by others", "mafw", None, 47.27, WIZWAND, "size unknown, probably 7B"),
    _row("MIGR", "mafw", None, 44.82, WIZWAND),
)
"""Other methods, as others have listed them."""

CAVEATS: dict[str, tuple[str, ...]] = {
    "": (
        "The published script compares whole answers to the letter: another form of the same word counts as wrong. "
        "The exact column is the one to set beside these figures.",
        "The script that scored R1-Omni was not released. The one that was asks another question than the training "
        "did and reads no answer tags.",
        "The HumanOmni-0.5B rows were measured without a label list in the question, though that model had been "
        "trained with lists: a part of the later gain is knowing which words to use.",
        "Training resized clips with padding and testing without; one pre-processing is used here for both.",
    ),
    "dfew": (
        "The authors say that they used one official partition and not all five. The figures fit the test sets of "
        "folds 1 and 2 (2,341 clips); a training record in the README points to fold 2. Neither is confirmed.",
        "Fold 1 tests 29 clips of disgust: one clip more or less moves the UAR by half a point.",
    ),
    "mafw": (
        "No official test set fits all four published WARs. A filtered subset of about 7,427 clips, with 1,477 of "
        "them for testing, does; which clips these were is not known.",
    ),
    "ravdess": (
        "The published WARs fit 300 clips or multiples of it, not the 1,440 spoken clips; which were taken is not "
        "known. Calm is a class of its own there.",
    ),
}
"""Caveats by dataset; those of all datasets under the empty name."""


def published_on(dataset: str) -> tuple[Published, ...]:
    """The paper's rows for a dataset, then the others."""
    name = dataset.lower()
    return tuple(row for row in (*PAPER, *OTHERS) if row.dataset == name)


def caveats_on(dataset: str) -> tuple[str, ...]:
    """Caveats of a comparison on a dataset; none without published values."""
    return (*CAVEATS.get(dataset.lower(), ()), *CAVEATS[""]) if published_on(dataset) else ()
