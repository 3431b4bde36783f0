"""Evaluates predictions or a checkpoint: `python -m learner.evaluate --help`."""

import argparse
import functools
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.config.run import OmniConfig
from common.errors import ConfigError
from common.evaluation.controls import CONDITIONS
from common.evaluation.predictions import read_predictions, require_clips
from common.runtime.command import CommandParser, command
from deploy.commands.command_line import run_command

if TYPE_CHECKING:
    from common.evaluation.report import Report

PROGRAM = "python -m learner.evaluate"
PURPOSE = """\
Computes WAR, UAR and macro F1 with 95 % intervals, by fold: once for answers that equal the label exactly, once for
answers that the table of labels maps to the same class. Writes report.html, report.json, confusion.png and
predictions.jsonl into OUT/NAME.

From predictions, without a model or Ray:
  --predictions FILE  JSONL of {"id", "dataset", "fold", "label", "text"} and, where there are, labels, taxonomy,
                      video, audio, policy_version, condition, failure
  --compare FILE      another run's predictions of the same clips: differences with their significance
  --clips FILE        JSON list or JSONL of all clips of the evaluation: missing and unknown ids are errors
  --taxonomy NAME     of the labels: dfew, mafw, mafw_compound, r1_omni, ravdess, ravdess7, mer, open; by
                      default that of the dataset

A checkpoint, which answers the clips of data.heldout on the configuration's engines:
  --model DIR         a checkpoint's folder; model.path otherwise
  --run NAME          the policy of that run in run.root
  --checkpoint WHICH  of that run: best, last (the default), or a step
  --controls [LIST]   also without sound, without picture, with another clip's sound, without thinking, with the
                      list of labels; a list such as video_only,no_think selects some
  --every-fold        the clips of every fold of data.heldout; a policy has seen the test clips of folds other than
                      its own in training

Both:
  --name NAME         of the evaluation, and of its folder; the predictions' or the checkpoint's name otherwise
  --out DIR           folder of that folder: ./eval for predictions, eval in the run's folder for a checkpoint
  --seed N            of the resampling and of swapped sounds; 0 otherwise
  --json              print report.json"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(argv)
    if options.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", options.name):
        raise ConfigError(
            f"--name must be letters, digits, dots and dashes, got {options.name!r}; it names a folder"
        )
    if options.predictions is None:
        return _evaluate_checkpoint(options, rest)
    names = ("model", "run", "checkpoint", "controls", "every_fold")
    unused = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)] + rest
    if unused:
        raise ConfigError(
            f"--predictions must come without {' '.join(unused)}, got both; predictions are scored without any "
            "model: see --help"
        )
    score(options)
    return 0


def score(options: argparse.Namespace) -> None:
    """Scores predictions and writes their report; raises `DatasetError` for invalid predictions or clips."""
    from common.evaluation.report import make_report

    path = Path(options.predictions)
    predictions = read_predictions(path)
    other = (Path(options.compare).stem, read_predictions(options.compare)) if options.compare else None
    if options.clips:
        for scored in (predictions, *([other[1]] if other else [])):
            require_clips(scored, options.clips)
    report = make_report(
        predictions,
        name=options.name or path.stem,
        sources=[str(path)],
        taxonomy=options.taxonomy,
        other=other,
        seed=options.seed,
    )
    finish(report, out=Path(options.out or "eval"), is_json=options.json)


def finish(report: "Report", *, out: Path, is_json: bool) -> None:
    """Writes a report and prints its tables, or its JSON."""
    from common.evaluation.report import facts, write_report
    from common.evaluation.tables import print_tables
    from common.runtime.screen import Screen, print_end, print_line

    page = write_report(out / report.name, report)
    console = Screen(stderr=is_json)
    if is_json:
        sys.stdout.write(json.dumps(facts(report), ensure_ascii=False, indent=1) + "\n")
    else:
        print_tables(console, report)
        print_line(console, f"report  {page}")
    print_end(console, page.parent, ["python", "-m", "webbrowser", str(page)])


def _evaluate_checkpoint(options: argparse.Namespace, rest: Sequence[str]) -> int:
    for name in ("compare", "clips", "taxonomy"):
        if getattr(options, name) is not None:
            raise ConfigError(f"--{name} must come with --predictions, got it without; see --help")
    if options.model is not None and options.run is not None:
        raise ConfigError(f"--model and --run must not both be given, got {options.model!r} and {options.run!r}")
    if options.checkpoint is not None and options.run is None:
        raise ConfigError("--checkpoint must come with --run, got it alone; give the run's name")
    unknown = sorted({*(options.controls or ())} - {*CONDITIONS})
    if unknown:
        raise ConfigError(f"--controls must be of {', '.join(CONDITIONS[1:])}, got {', '.join(unknown)}")
    is_given = options.model is not None or options.run is not None
    if not is_given and not rest:
        raise ConfigError(
            "predictions or a checkpoint must be given, got nothing; use --predictions FILE, or --config FILE with "
            "--run NAME or --model DIR: see --help"
        )
    return run_command(
        rest,
        program=PROGRAM,
        purpose=PURPOSE,
        run=functools.partial(run, options),
        is_resumable=False,
        is_given=is_given,
    )


async def run(options: argparse.Namespace, config: OmniConfig) -> None:
    """Evaluates a checkpoint on the configuration's engines, and writes the report."""
    from deploy.stages.checkpoint_evaluation import EvaluationRequest, evaluate

    request = EvaluationRequest(
        model=options.model,
        run=options.run,
        checkpoint=options.checkpoint or "last",
        conditions=("av", *(c for c in options.controls or () if c != "av")),
        every_fold=options.every_fold,
        name=options.name,
        out=Path(options.out) if options.out else None,
        seed=options.seed,
    )
    report, folder = await evaluate(config, request)
    finish(report, out=folder, is_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    names = ("predictions", "compare", "clips", "taxonomy", "model", "run", "checkpoint", "name", "out")
    for name in names:
        parser.add_argument(f"--{name}")
    parser.add_argument("--controls", nargs="?", const=list(CONDITIONS[1:]), type=lambda text: text.split(","))
    parser.add_argument("--every-fold", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser
