"""Tables of the stored figures for the documents."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.figures.stored import FOLDER, Figure, Stored, like, unit_of

SEEDS = ("demo-seed-0", "demo-seed-1", "demo-seed-2")
COUNTS = ("clips", "layers", "scorings", "tests")
"""Units of numbers that are counted, not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The files of a table and its renderer."""

    files: tuple[str, ...]
    render: Callable[[Stored], str]


def digest(files: Sequence[str], stored: Stored) -> str:
    """Digest of the stored values, so that a change of any digit changes the document."""
    text = json.dumps({name: stored[name] for name in files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def rounded(value: Any, unit: str = "") -> str:
    """Three digits of a fraction, all digits of a count; bytes in GiB."""
    if value is None or value == {}:
        return "none"
    if isinstance(value, str):
        return value[:12]
    if unit == "B":
        return like("0.0 GiB", Figure(value=value, unit="B"))
    if isinstance(value, int) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" + (f" {unit}" if unit else "")


def summaries(stored: Stored) -> str:
    """Complete summaries, one column per seed."""
    runs = [_flat(stored[name]) for name in SEEDS]
    rows = [[f"`{key}`", *(rounded(run[key], unit_of(key)) for run in runs)] for key in runs[0]]
    return markdown(["", *(f"seed {run['seed']}" for run in runs)], rows)


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    phases = {f"seconds_by_phase.{name}": value for name, value in summary["seconds_by_phase"].items()}
    return {key: value for key, value in summary.items() if key != "seconds_by_phase"} | phases


def recognition(stored: Stored) -> str:
    """WAR of the three policies in percent."""
    runs = [stored[name] for name in SEEDS]
    policies = {"untrained": "war_untrained", "after the cold start": "war_cold_start", "after GRPO": "war_grpo"}
    rows = [[text, *(f"{100 * run[key]:.1f} %" for run in runs)] for text, key in policies.items()]
    gains = (100 * (run["war_grpo"] - run["war_cold_start"]) for run in runs)
    rows.append(["gain of GRPO in points", *(f"{gain:.1f}" for gain in gains)])
    return markdown(["held-out WAR", *(f"seed {run['seed']}" for run in runs)], rows)


def measurements(name: str) -> Table:
    """Table of a file: one part per group of figures."""
    return Table(files=(name,), render=lambda stored: "\n\n".join(map(_group, stored[name].values())))


def _group(group: Mapping[str, Any]) -> str:
    intro = f"{group['conditions']} (`{group['command']}`)" if group["command"] else group["conditions"]
    rows = [[entry["what"], _figure(entry), _target(entry)] for entry in group["figures"].values()]
    if not rows:
        return f"{intro[0].upper()}{intro[1:]}."
    return f"{intro[0].upper()}{intro[1:]}:\n\n{markdown(['quantity', 'value', 'target'], rows)}"


def _figure(entry: Mapping[str, Any]) -> str:
    values = entry["value"] if isinstance(entry["value"], list) else [entry["value"]]
    unit = entry.get("unit", "")
    shown = " to ".join(three_digits(value, unit) for value in values)
    return shown if unit in ("", "B") else f"{shown} {unit}"


def three_digits(value: float, unit: str = "") -> str:
    """Three digits of a measurement, two below 0.001, all digits of a count; bytes in GiB, with the unit."""
    if unit == "B":
        return f"{value * 2.0**-30:.3g} GiB"
    if unit in COUNTS:
        return f"{value:,}"
    if value >= 1e9 or 0 < value < 1e-3:
        mantissa, _, exponent = f"{value:.{2 if value >= 1 else 1}e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    places = 2 - math.floor(math.log10(value)) if value else 0
    text = f"{round(value, places):,.{max(places, 0)}f}"
    return text.rstrip("0").removesuffix(".") if "." in text else text


def _target(entry: Mapping[str, Any]) -> str:
    if "target" not in entry:
        return ""
    ((kind, bound),) = entry["target"].items()
    is_met = entry["value"] >= bound if kind == "at_least" else entry["value"] <= bound
    return f"{kind.replace('_', ' ')} {three_digits(bound)}" + ("" if is_met else ", **missed**")


def speeds(stored: Stored) -> str:
    """Rewards, the fastest first."""
    entries = stored["rewards"]["speed"]["figures"].values()
    ordered = sorted(entries, key=lambda entry: -entry["value"])
    return markdown(["reward", "samples/s"], [[entry["what"], three_digits(entry["value"])] for entry in ordered])


def cold_start_steps(stored: Stored) -> str:
    """Results of the cold start by its number of steps."""
    trials = stored["settings"]["cold_start"]
    rows = [
        [steps + (", chosen" if int(steps) == trials["chosen"] else ""), f"{100 * share:.1f} %"]
        for steps, share in trials["steps"].items()
    ]
    return markdown(["steps of the cold start", "validation clips answered right"], rows)


def grpo_settings(stored: Stored) -> str:
    """GRPO by its settings; each line has a run with its own rewards and one with shuffled rewards."""
    header = ["weight of the KL", "sampling temperature", "learning rate", "WAR, its own rewards", "WAR, shuffled"]
    return markdown(header, [_settings_row(row) for row in stored["settings"]["grpo"]])


def _settings_row(row: Mapping[str, Any]) -> list[str]:
    rate = f"{row['lr']:.0e}".replace("e-0", "e-")
    shuffled = "; ".join(map(_run, row["shuffled"]))
    if stop := row.get("shuffled_ended"):
        shuffled = (
            f"stopped: training accuracy fell from {stop['training_accuracy_before']} to "
            f"{stop['training_accuracy_after']} in {stop['steps']} steps"
        )
    own = "; ".join(map(_run, row["own"]))
    return [str(row["beta"]), str(row["temperature"]), f"{rate}, {row['schedule']}", own, shuffled]


def _run(run: Mapping[str, Any]) -> str:
    steps = f", {run['steps']} steps" if "steps" in run else ""
    return f"{run['war']:.3f} (from {run['cold_start']:.3f}{steps})"


GPU_SECTIONS = {
    "agreement": "differences between GPU and CPU, in float32 and bfloat16",
    "step": "one step with the shipped one-GPU configuration",
    "against-plain": "one step compared with transformers' own module, which repeats the prompt in every sample",
    "publish": "the sending side of a publish",
    "stall": "pause of a rank for a checkpoint",
    "logits": "time and memory of log-probabilities",
    "step-full": "one step that trains the whole decoder",
    "step-no-checkpointing": "one step without gradient checkpointing",
    "step-full-zero2": "one step that trains the whole decoder at ZeRO stage 2",
    "step-full-zero2-offload": "the same, with the optimizer in host memory",
}
"""Sections of `tests.gpu.check`; the figures of a section are in `gpu-NAME.json` after it has run."""


def on_gpu(stored: Stored) -> str:
    """The figures of each section; `Not run yet.` for a section without figures."""
    parts: list[str] = []
    for name, what in GPU_SECTIONS.items():
        groups = stored.get(f"gpu-{name}", {})
        parts.append(f"### `{name}`: {what}")
        parts += [_group(group) for group in groups.values()] or ["Not run yet."]
    return "\n\n".join(parts)


TABLES = {
    "gpu": Table(files=tuple(sorted(p.stem for p in FOLDER.glob("gpu-*.json"))), render=on_gpu),
    "demo": Table(files=SEEDS, render=summaries),
    "demo-war": Table(files=SEEDS, render=recognition),
    "controls": measurements("controls"),
    "cold-start-steps": Table(files=("settings",), render=cold_start_steps),
    "grpo-settings": Table(files=("settings",), render=grpo_settings),
    "benchmarks": measurements("benchmarks"),
    "publishing": measurements("publishing"),
    "reward-speed": Table(files=("rewards",), render=speeds),
}
