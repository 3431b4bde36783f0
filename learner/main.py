"""Runs GRPO: `python -m learner.main --config my.yaml [--learner.optimizer.lr 1e-6 ...]`."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from common.config.load import describe_options, dump_config, load_config
from common.config.run import OmniConfig
from common.errors import OmniError, UserError

USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, checks, runs; a user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.main", add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        known, overrides = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        print(f"error: {error}; see --help", file=sys.stderr)
        return USER_MISTAKE
    if known.help:
        print(_help())
        return 0
    try:
        config = load_config(known.config, overrides)
        return dry_run(config) if known.dry_run else asyncio.run(run(config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except OmniError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def dry_run(config: OmniConfig) -> int:
    """Checks what a run would be given, and prints the resolved configuration and the placement plan."""
    from deploy.placement import format_plan, placement_plan
    from deploy.preflight import check_inputs

    check_inputs(config)
    print(dump_config(config))
    print(format_plan(placement_plan(config)))
    return 0


async def run(config: OmniConfig) -> int:
    """One run, from nothing to its closing table."""
    from rich.console import Console

    from common.memory import MemorySampler
    from deploy.progress import Progress
    from deploy.report import print_report
    from deploy.wiring import open_run
    from learner.loop import run_steps

    console = Console()
    progress = Progress(console, num_steps=config.learner.steps)
    with MemorySampler() as memory:
        async with open_run(config, progress) as parts:
            await run_steps(parts, steps=config.learner.steps)
            memory.sample()
            print_report(console, parts, parts.record, peak_memory_bytes=memory.peak_bytes)
    return 0


def _help() -> str:
    head = (
        "python -m learner.main [--config FILE] [--dry-run] [--KEY VALUE ...]\n\n"
        "Trains with GRPO: rollout, reward, learn, publish.\n\n"
        "  --config FILE   a YAML file with the keys below\n"
        "  --dry-run       print the resolved configuration and the placement plan, start nothing\n\n"
        "Keys, their defaults, and what they mean:\n"
    )
    return head + "\n".join(f"  --{key} {default}\n      {text}" for key, default, text in describe_options())


if __name__ == "__main__":
    sys.exit(main())
