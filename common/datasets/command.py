"""The options of `python -m common.datasets`."""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, cast

from pydantic import ValidationError

from common.config.corpora import AnyCorpusConfig, TreeConfig
from common.config.data import DataConfig
from common.config.load import load_config
from common.config.tree import members, tag_of
from common.config.values import parse_value
from common.datasets.cold_start.command import add_options, make_cold_start
from common.errors import ConfigError, OmniError, UserError
from common.labels import TAXONOMIES
from common.runtime.command import FAILURE, CommandParser, command, say
from common.runtime.screen import Screen, bar

MIN_PARALLEL = 64
"""Fewer clips are checked in this process: the start of others takes longer."""
CORPORA = {str(tag_of(member)): member for member in members(AnyCorpusConfig)}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 without findings, 1 with findings, 2 for a user's mistake."""
    chosen = _parser().parse_args(argv)
    try:
        return chosen.run(chosen)
    # a broken pipe is an OSError, but no user's mistake
    except (UserError, BrokenPipeError):
        raise
    except OmniError as error:
        return say(f"failed: {error}; run the same command again to continue", FAILURE)
    except OSError as error:
        path = error.filename or "a file"
        raise ConfigError(
            f"{path} must be usable, got {error.strerror or error}; correct it or its permissions"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m common.datasets", description="Inspects corpora and makes cold-start data."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    look = commands.add_parser("inspect", help="counts, lengths, faults and overlaps of a corpus")
    _add_source(look)
    look.add_argument("--json", action="store_true", help="print one object instead of tables")
    look.add_argument("--check-media", choices=("none", "header", "full"), default="header", dest="level")
    look.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that open files")
    default = "default: the value of the configuration"
    look.add_argument("--max-video-s", type=float, help=default)
    look.add_argument("--max-audio-s", type=float, help=default)
    look.add_argument("--missing-audio", choices=("video_only", "skip"), help=default)
    look.set_defaults(run=_inspect)
    make = commands.add_parser("make-cold-start", help="R1-Omni's JSON of explanations")
    _add_source(make)
    add_options(make)
    make.set_defaults(run=_make_cold_start)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="a run's YAML file, for all its corpora")
    parser.add_argument("--format", choices=tuple(CORPORA), help="kind of the corpus")
    parser.add_argument("--root", help="folder of the corpus; for r1_omni, r1_omni_list and table its file")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--taxonomy", choices=tuple(TAXONOMIES), default="open", help="taxonomy of the labels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the corpus"
    )


def _source_of(chosen: argparse.Namespace) -> AnyCorpusConfig:
    """The corpus of the options; raises `ConfigError` if there is none or a key is wrong."""
    if not chosen.format or not chosen.root:
        options = "--format alone" if chosen.format else "--root alone" if chosen.root else "neither"
        raise ConfigError(f"--format and --root must be given, or --config, got {options}; see --help")
    model = CORPORA[chosen.format]
    keys: dict[str, Any] = {"type": chosen.format, "root" if issubclass(model, TreeConfig) else "path": chosen.root}
    if chosen.fold is not None:
        keys["fold"] = chosen.fold
    for pair in chosen.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set must be KEY=VALUE, got {pair!r}; see --help")
        keys[key] = parse_value(value)
    try:
        return cast(AnyCorpusConfig, model.model_validate(keys))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the corpus"
        raise ConfigError(
            f"{key} must be valid: {first['msg']}, got {first['input']!r}; see docs/corpora.md"
        ) from error


def _make_cold_start(chosen: argparse.Namespace) -> int:
    if chosen.config:
        raise ConfigError(
            f"--config must be left out of make-cold-start, got {chosen.config!r}; use --format and --root"
        )
    return make_cold_start(chosen, _source_of(chosen))


def _inspect(chosen: argparse.Namespace) -> int:
    # imported here: --help must be fast
    from common.datasets.inspection.media_check import CheckLimits
    from common.datasets.inspection.statistics import inspect, published_sizes, read_splits, read_stages, unlisted
    from common.datasets.inspection.view import show

    if chosen.workers < 1:
        raise ConfigError(f"--workers must be >= 1, got {chosen.workers}; leave it out for one per core")
    if chosen.config:
        data = load_config(chosen.config, []).data
        splits, published, num_unlisted = read_stages(data), dict[str, int](), None
        if not splits:
            raise ConfigError(
                f"{chosen.config} must name a corpus of files in data, got none; use --format and --root"
            )
    else:
        source, data = _source_of(chosen), DataConfig()
        splits, published = read_splits(source, taxonomy=chosen.taxonomy), published_sizes(source)
        num_unlisted = unlisted(splits)
    options = {key: getattr(chosen, key) for key in ("max_video_s", "max_audio_s", "missing_audio")}
    limits = {key: getattr(data, key) if value is None else value for key, value in options.items()}
    total, done = sum(len(corpus.records) for corpus in splits.values()), itertools.count(1)
    with bar(Screen(stderr=True), "clips") as update:
        inspection = inspect(
            splits,
            limits=CheckLimits(level=chosen.level, **limits),
            num_workers=chosen.workers if total >= MIN_PARALLEL else 1,
            on_clip=lambda: update(next(done), total),
            published=published,
            num_unlisted=num_unlisted,
        )
    if chosen.json:
        sys.stdout.write(f"{json.dumps(inspection.as_json(), ensure_ascii=False)}\n")
    else:
        show(inspection, Screen(), level=chosen.level)
    return 0 if inspection.is_clean else FAILURE
