"""The options of `python -m common.datasets`."""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from common.config.corpora import AnyCorpusConfig, TreeConfig
from common.config.data import DataConfig
from common.config.load import load_config
from common.config.tree import members, tag_of
from common.config.values import parse_value
from common.datasets.cold_start.command import add_options, make_cold_start
from common.errors import ConfigError, OmniError, UserError
from common.labels import TAXONOMIES
from common.runtime.command import FAILURE, exit_code, say
from common.runtime.screen import Screen, bar

if TYPE_CHECKING:
    from common.datasets.inspection.media_check import CheckLimits

MIN_PARALLEL = 64
"""Clips that are worth the start of processes."""
CORPORA = {str(tag_of(member)): member for member in members(AnyCorpusConfig)}
_SOURCE: TypeAdapter[Any] = TypeAdapter(AnyCorpusConfig)


class _Parser(argparse.ArgumentParser):
    # a mistake is one line, without the usage

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 without findings, 1 with findings, 2 for a user's mistake."""
    return exit_code(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    chosen = _parser().parse_args(argv)
    try:
        return chosen.run(chosen)
    except UserError:
        raise
    except OmniError as error:
        return say(f"failed: {error}; the same command goes on from here", FAILURE)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or "a file"
        raise ConfigError(
            f"{where} must be usable, got {error.strerror or error}; mend it or its rights"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m common.datasets", description="Looks at corpora, and makes cold-start data.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    look = commands.add_parser("inspect", help="counts, lengths, what would fail, what overlaps")
    add_source(look)
    look.add_argument("--json", action="store_true", help="print one object instead of tables")
    look.add_argument("--check-media", choices=("none", "header", "full"), default="header", dest="level")
    look.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that open files")
    whose = "by default the configuration's"
    look.add_argument("--max-video-s", type=float, help=whose)
    look.add_argument("--max-audio-s", type=float, help=whose)
    look.add_argument("--missing-audio", choices=("video_only", "skip"), help=whose)
    look.set_defaults(run=_inspect)
    make = commands.add_parser("make-cold-start", help="R1-Omni's JSON of explanations")
    add_source(make)
    add_options(make)
    make.set_defaults(run=_make_cold_start)
    return parser


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="a run's YAML file: each corpus that it names")
    parser.add_argument("--format", choices=tuple(CORPORA), help="kind of the corpus")
    parser.add_argument("--root", help="folder, or file of r1_omni, r1_omni_list and table")
    parser.add_argument("--fold", type=int)
    parser.add_argument("--taxonomy", choices=tuple(TAXONOMIES), default="open", help="classes to fold labels into")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other key of the corpus"
    )


def source_of(chosen: argparse.Namespace) -> AnyCorpusConfig:
    """The corpus of the options; raises `ConfigError` if there is none or a key is wrong."""
    if not chosen.format or not chosen.root:
        got = "--format alone" if chosen.format else "--root alone" if chosen.root else "neither"
        raise ConfigError(f"--format and --root must be given, or --config, got {got}; see --help")
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
        return _SOURCE.validate_python(keys)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the corpus"
        raise ConfigError(
            f"{where} must be valid: {first['msg']}, got {first['input']!r}; see docs/corpora.md"
        ) from error


def _make_cold_start(chosen: argparse.Namespace) -> int:
    if chosen.config:
        raise ConfigError(
            "--config must be left out of make-cold-start, got it; say the corpus by --format and --root"
        )
    return make_cold_start(chosen, source_of(chosen))


def _limits(chosen: argparse.Namespace, data: DataConfig) -> "CheckLimits":
    """The limits of the options, or of the configuration by default."""
    from common.datasets.inspection.media_check import CheckLimits

    settings = {key: getattr(chosen, key) for key in ("max_video_s", "max_audio_s", "missing_audio")}
    return CheckLimits(
        level=chosen.level,
        **{key: getattr(data, key) if value is None else value for key, value in settings.items()},
    )


def _inspect(chosen: argparse.Namespace) -> int:
    from common.datasets.inspection.statistics import inspect, published_sizes, read_splits, read_stages, unlisted
    from common.datasets.inspection.view import show

    if chosen.workers < 1:
        raise ConfigError(f"--workers must be >= 1, got {chosen.workers}; leave it out for one to a core")
    if chosen.config:
        data = load_config(chosen.config, []).data
        splits, published, num_unlisted = read_stages(data), dict[str, int](), None
        if not splits:
            raise ConfigError(f"{chosen.config} must name a corpus of files in data, got none; nothing to look at")
    else:
        source, data = source_of(chosen), DataConfig()
        splits, published = read_splits(source, taxonomy=chosen.taxonomy), published_sizes(source)
        num_unlisted = unlisted(splits)
    limits = _limits(chosen, data)
    total, done = sum(len(corpus.records) for corpus in splits.values()), itertools.count(1)
    with bar(Screen(stderr=True), "clips") as update:
        inspection = inspect(
            splits,
            limits=limits,
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
