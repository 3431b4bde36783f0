"""A reward that listens to the clip.

- {type: python, name: loudness, entrypoint: "reward.examples.loudness:Loudness", options: {quiet_db: -45}}
"""

import numpy as np

from reward.request import RewardRequest, RewardResult


class Loudness:
    """Subtracts a point from a completion that claims shouting in a quiet clip."""

    def __init__(self, *, quiet_db: float = -40.0, words: tuple[str, ...] = ("shout", "scream", "loud")) -> None:
        self._quiet_db, self._words = quiet_db, tuple(words)

    def __call__(self, request: RewardRequest) -> RewardResult:
        if "audio" not in request.modalities:
            return RewardResult(value=None, detail="no sound")
        waveform = request.waveform()
        level_db = 10 * float(np.log10(np.mean(np.square(waveform)) + 1e-12))
        claims = [word for word in self._words if word in request.completion.lower()]
        is_wrong = bool(claims) and level_db < self._quiet_db
        return RewardResult(
            value=-1.0 if is_wrong else 0.0,
            detail=f"says {claims[0]} at {level_db:.0f} dB" if is_wrong else "",
            facts={"level_db": level_db},
        )
