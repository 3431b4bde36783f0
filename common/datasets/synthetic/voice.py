"""Speech with a set pitch, range, rate and loudness, from the libespeak-ng of the package `espeakng_loader`."""

import _ctypes
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

_SYNCHRONOUS = 2
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prosody:
    pitch: int
    """0-99."""
    pitch_range: int
    """0-99; 0 is monotone."""
    words_per_minute: int
    volume: int
    """0-200; 100 is normal."""


def speak(text: str, *, voice: str, prosody: Prosody, seed: int) -> tuple[np.ndarray, int]:
    """Returns float32 [S] in [-1, 1] and its sample rate; the same arguments give the same sound."""
    # loaded for each call: the state of an earlier call would change the sound
    library, rate = _open_library()
    library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    try:
        return _say(library, text, voice=voice, prosody=prosody), rate
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


def _say(library: ctypes.CDLL, text: str, *, voice: str, prosody: Prosody) -> np.ndarray:
    chunks: list[np.ndarray] = []

    @_Callback
    def collect(samples: Any, count: int, _events: int) -> int:
        if count > 0:
            chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"voice must be one that espeak-ng has, got {voice!r}")
    for parameter, value in (
        (_RATE, prosody.words_per_minute),
        (_VOLUME, prosody.volume),
        (_PITCH, prosody.pitch),
        (_RANGE, prosody.pitch_range),
    ):
        library.espeak_SetParameter(parameter, value, 0)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return np.concatenate(chunks).astype(np.float32) / 32768.0


def _open_library() -> tuple[ctypes.CDLL, int]:
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError("libespeak-ng could not start")
    return library, rate
