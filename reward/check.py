"""Scores recorded samples without training, to try out and correct rewards.

    python -m reward.check --config my.yaml --samples samples.jsonl [--json] [--reward.KEY VALUE ...]
    python -m reward.check --list

A line of the samples is `{"completion": ..., "label": ..., "prompt_id": ...}`, with any other field of
`POST /v1/score`, or a line that a run has recorded under `samples/`. Lines with the same `prompt_id`, or the same
recorded draw, form a group. Exit code 0: every reward gave its values; 1: a reward failed; 2: the command, the
configuration or a line is wrong.
"""

import argparse
import asyncio
import gzip
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.config.load import load_config
from common.config.reward import RewardConfig
from common.errors import DatasetError
from common.runtime.command import FAILURE, command
from common.runtime.screen import Screen
from common.types import Failure
from reward.builtin import BUILTIN
from reward.outcome import RewardFault, text_of
from reward.request import RewardResult
from reward.service import GroupReport, RewardService
from reward.validation import check_rewards
from reward.wire import WireSample, request_of

RECORDED = frozenset(
    "index engine reward breakdown details facts finish_reason rollout_logprobs version_spans".split()  # noqa: SIM905
)
"""Fields of recorded samples that rewards do not see."""
WIDTH = 160
"""Characters per line if the output is not a terminal."""
MAX_SHOWN = 48
"""Most characters of a completion in the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    number: int
    group: str
    sample: WireSample


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    lines: tuple[Line, ...]
    report: GroupReport


def read_lines(path: Path) -> list[Line]:
    """Reads samples from a file, gzipped or not.

    Raises:
        DatasetError: the file cannot be read, or a line is not a sample.
    """
    lines: list[Line] = []
    try:
        # only a newline ends a line: some completions hold other line ends
        with gzip.open(path, "rt", newline="\n") if path.suffix == ".gz" else path.open(newline="\n") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    lines.append(_line(text, number, path))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"--samples must be a readable file of lines, got {str(path)!r}: {error}; check the path"
        ) from error
    if not lines:
        raise DatasetError(f"--samples must hold at least one line, got none in {str(path)!r}; record some")
    return lines


def _line(text: str, number: int, path: Path) -> Line:
    where = f"{path}:{number}"
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{where} must be JSON, got {error}; correct the line") from error
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be a mapping, got {type(entry).__name__}; correct the line")
    fields = {key: value for key, value in cast(dict[str, Any], entry).items() if key not in RECORDED}
    group = text_of(fields.pop("draw", fields.get("prompt_id") or f"line {number}"))
    if "text" in fields and "completion" not in fields:
        fields["completion"] = fields.pop("text")
    clip = fields.pop("clip", None)
    if clip is not None and not {"video_path", "audio_path"} & fields.keys():
        fields["video_path"] = clip
    fields.setdefault("prompt_id", group)
    try:
        # as JSON: lists become tuples, and no value is converted
        sample = WireSample.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise DatasetError(
            f"{where}: {key} must be valid, got {str(first['input'])[:80]!r}: {first['msg'].lower()}; "
            "correct the line"
        ) from error
    return Line(number=number, group=group, sample=sample)


async def score_lines(config: RewardConfig, lines: Sequence[Line]) -> tuple[list[Checked], tuple[str, ...]]:
    """Returns the report of every group, in the order of their first lines, and the calling convention of user
    rewards.

    Raises:
        ConfigError: a reward cannot be loaded.
        RewardError: a reward does not start.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    service = RewardService(config, asks_all=True)
    slots = asyncio.Semaphore(config.max_concurrency)

    async def checked(members: Sequence[Line]) -> Checked:
        async with slots:
            report = await service.score_requests([request_of(line.sample) for line in members])
        return Checked(lines=tuple(members), report=report)

    try:
        await service.start()
        return list(await asyncio.gather(*map(checked, groups.values()))), service.decisions
    finally:
        service.close()


def as_json(results: Sequence[Checked]) -> dict[str, Any]:
    samples = [
        {"line": line.number, "group": line.group, "prompt_id": line.sample.prompt_id} | sample
        for result in results
        for line, sample in zip(result.lines, _samples_of(result), strict=True)
    ]
    return {"samples": samples, "num_groups": len(results), "num_failed": sum(map(has_failed, results))}


def has_failed(result: Checked) -> bool:
    """True if a reward failed on the group, even if the group has a score."""
    return bool(result.report.faults) or isinstance(result.report.scores, Failure)


def _samples_of(result: Checked) -> Iterator[dict[str, Any]]:
    report, scores = result.report, result.report.scores
    outcomes_by_reward = report.outcomes or {}
    for index in range(len(result.lines)):
        outcomes = {name: column[index] for name, column in outcomes_by_reward.items()}
        results = {name: o for name, o in outcomes.items() if isinstance(o, RewardResult)}
        yield {
            "total": None if isinstance(scores, Failure) else scores[index].total,
            "values": {name: result.value for name, result in results.items()},
            "details": {name: result.detail for name, result in results.items() if result.detail},
            "facts": {f"{name}/{key}": v for name, r in results.items() for key, v in (r.facts or {}).items()},
            "faults": {name: asdict(o) for name, o in outcomes.items() if isinstance(o, RewardFault)},
            "left_out": list(report.left_out),
            "error": scores.reason if isinstance(scores, Failure) else None,
        }


def print_table(results: Sequence[Checked], names: Sequence[str], console: Console) -> None:
    """Prints a row per sample, with a dash for rewards that do not apply, and then the failures."""
    table = Table(box=None, pad_edge=False)
    for title in ("line", "prompt", "label", "completion"):
        table.add_column(title, overflow="fold")
    for title in (*names, "total"):
        table.add_column(title, justify="right")
    remarks: dict[str, list[int]] = {}
    for result in results:
        for line, sample in zip(result.lines, _samples_of(result), strict=True):
            text = " ".join(line.sample.completion.split())
            shown = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
            cells = ["failed" if name in sample["faults"] else _cell(sample["values"].get(name)) for name in names]
            total = "failed" if sample["error"] else _cell(sample["total"])
            row = (str(line.number), line.sample.prompt_id, line.sample.label, shown, *cells, total)
            # completions are not markup
            table.add_row(*map(escape, row))
            for name, fault in sample["faults"].items():
                remarks.setdefault(f"{name} failed ({fault['kind']}): {fault['detail']}", []).append(line.number)
            if sample["error"] and not sample["faults"]:
                remarks.setdefault(f"no sum ({sample['error']})", []).append(line.number)
            for name in sample["left_out"]:
                remarks.setdefault(f"{name} does not count in the sums", []).append(line.number)
    console.print(table)
    for remark, numbers in remarks.items():
        where = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        console.print(f"\n{where}: {remark}", markup=False, highlight=False)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def print_builtin() -> None:
    for name, reward in sorted(BUILTIN.items()):
        print(f"{name}{inspect.signature(reward)}".split(" ->")[0])
        print("\n".join(f"    {line}".rstrip() for line in (inspect.getdoc(reward) or "").splitlines()) + "\n")


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reward.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="a YAML file with a section `reward`, such as a run's; else the defaults")
    parser.add_argument("--samples", type=Path, help="a file of lines, .jsonl or .jsonl.gz")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--list", action="store_true", help="print the built-in rewards")
    known, overrides = parser.parse_known_args(argv)
    if known.list:
        print_builtin()
        return 0
    if known.samples is None:
        raise DatasetError("--samples must be set, got nothing; name a file of lines, or see --help")
    config = load_config(known.config, overrides).reward
    lines = read_lines(known.samples)
    check_rewards(config)
    results, decisions = asyncio.run(score_lines(config, lines))
    if known.json:
        print(json.dumps(as_json(results), ensure_ascii=False))
    else:
        console = Screen() if sys.stdout.isatty() else Screen(width=WIDTH)
        for decision in decisions:
            console.print(decision, markup=False, highlight=False)
        print_table(results, [entry.name for entry in config.rewards], console)
    return FAILURE if any(map(has_failed, results)) else 0


if __name__ == "__main__":
    sys.exit(main())
