"""The effect of each emotion on a face and a voice, and its description in words."""

from dataclasses import dataclass

from common.datasets.synthetic.voice import Prosody

NEUTRAL = "neutral"


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceExpression:
    """Shapes of a drawn face, each about 0 at rest."""

    brow: float
    """Slope of the brows; negative falls towards the nose."""
    lift: float
    """Height of the brows."""
    eye: float
    """Opening of the eyes, 0 to 1."""
    smile: float
    """Curve of the mouth."""
    mouth: float
    """Opening of the mouth, 0 to 1."""
    sway: float
    """Movement of the head, in pixels."""
    words: str
    """An onlooker's description."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VoiceExpression:
    """Prosody and sentences."""

    prosody: Prosody
    sentences: tuple[str, ...]
    words: str
    """A listener's description."""


FACES = {
    "happy": FaceExpression(brow=0.1, lift=0.3, eye=0.7, smile=1.0, mouth=0.4, sway=3.0, words="the mouth smiles"),
    "sad": FaceExpression(
        brow=0.8, lift=0.1, eye=0.35, smile=-0.8, mouth=0.0, sway=0.6, words="the mouth and eyes droop"
    ),
    NEUTRAL: FaceExpression(brow=0.0, lift=0.0, eye=0.6, smile=0.0, mouth=0.15, sway=0.5, words="the face is calm"),
    "angry": FaceExpression(
        brow=-1.0, lift=-0.4, eye=0.7, smile=-0.5, mouth=0.5, sway=2.0, words="the brows are low"
    ),
    "surprise": FaceExpression(
        brow=0.2, lift=1.0, eye=1.0, smile=0.0, mouth=1.0, sway=1.2, words="the mouth is wide open"
    ),
    "disgust": FaceExpression(
        brow=-0.5, lift=-0.2, eye=0.2, smile=-1.0, mouth=0.2, sway=1.0, words="the eyes are narrow"
    ),
    "fear": FaceExpression(brow=0.9, lift=0.7, eye=1.0, smile=-0.3, mouth=0.45, sway=4.0, words="the head shakes"),
}


def _voice(pitch: int, pitch_range: int, rate: int, volume: int, manner: str, *sentences: str) -> VoiceExpression:
    prosody = Prosody(pitch=pitch, pitch_range=pitch_range, words_per_minute=rate, volume=volume)
    return VoiceExpression(prosody=prosody, sentences=sentences, words=f"the voice {manner}")


VOICES = {
    "happy": _voice(70, 80, 190, 110, "is bright", "What a lovely day", "I am so glad you came", "We won the game"),
    "sad": _voice(25, 10, 105, 60, "is slow and low", "She is gone", "I miss the old house", "It is over now"),
    NEUTRAL: _voice(
        45, 35, 150, 90, "is even", "The train leaves at noon", "It is on the table", "The shop opens at nine"
    ),
    "angry": _voice(35, 70, 205, 190, "is loud and harsh", "Stop it right now", "How dare you", "Get out of here"),
    "surprise": _voice(85, 99, 170, 130, "jumps up", "Oh, is it you", "I did not expect that", "Really, already"),
    "disgust": _voice(30, 50, 120, 105, "drags", "That smells awful", "Take it away", "How very nasty"),
    "fear": _voice(
        95, 60, 225, 75, "is thin and fast", "Something is out there", "Please do not leave me", "Did you hear that"
    ),
}
EMOTIONS = tuple(FACES)
"""The seven classes of DFEW, in its order."""


def explanation(*, face: str, voice: str, label: str) -> str:
    """The answer of an onlooker, in the paper's form."""
    observed = f"{FACES[face].words}, {VOICES[voice].words}"
    return f"<think>{observed[0].upper()}{observed[1:]}.</think>\n<answer>{label}</answer>"


EXPLANATIONS = tuple(
    explanation(face=face, voice=voice, label=label)
    for face in EMOTIONS
    for voice in EMOTIONS
    for label in (face, voice)
)
"""Texts like those of the corpus, for the training of a tokenizer."""
