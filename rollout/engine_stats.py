"""The counters of one engine, without vLLM."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """vLLM's counters since the engine started."""

    num_steps: int
    num_running: int
    """Sequences that run."""
    num_waiting: int
    kv_use: float
    """Share of the key-value cache in use, 0 to 1."""
    num_preemptions: int
    longest_step_s: float
