"""What the commands share: options, `--help`, `--dry-run`, and how a mistake, a failure and a stop are said."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence

from common.config.load import dump_config, load_config
from common.config.run import OmniConfig
from common.errors import OmniError, StopRequestedError, UserError

USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130


def run_command(
    argv: Sequence[str] | None, *, program: str, purpose: str, run: Callable[[OmniConfig], Awaitable[None]]
) -> int:
    """Parses, checks, runs; a user's mistake is one line and exit code 2.

    Args:
        argv: arguments without the program's name; the process's own where None.
        program: as it is called.
        purpose: for `--help`.
        run: does the work of a configuration.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        known, overrides = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        return _say(f"error: {error}; see --help", USER_MISTAKE)
    try:
        if known.help or known.version:
            print(_help(program, purpose) if known.help else _version())
            return 0
        config = load_config(known.config, overrides)
        if known.dry_run:
            dry_run(config)
        else:
            asyncio.run(_awaited(run, config))
    except UserError as error:
        return _say(f"error: {error}", USER_MISTAKE)
    except StopRequestedError:
        return _say("stopped; the same command again goes on from here", INTERRUPTED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _say("interrupted; the same command again goes on from the last checkpoint", INTERRUPTED)
    except OmniError as error:
        return _say(f"failed: {error}", FAILURE)
    return 0


def dry_run(config: OmniConfig) -> None:
    """Checks what a run would be given, and prints the resolved configuration and the placement plan.

    Raises:
        UserError: something of it is not there.
    """
    from deploy.placement import format_plan, placement_plan
    from deploy.preflight import check_inputs

    check_inputs(config)
    print(dump_config(config))
    print(format_plan(placement_plan(config)))


async def _awaited(run: Callable[[OmniConfig], Awaitable[None]], config: OmniConfig) -> None:
    await run(config)


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _version() -> str:
    from common.provenance import installed_version

    return f"omni-rlvr {installed_version()}"


def _help(program: str, purpose: str) -> str:
    from common.config.describe import describe_options, format_options

    return (
        f"{program} [--config FILE] [--dry-run] [--KEY VALUE ...]\n\n"
        f"{purpose}\n\n"
        "  --config FILE   a YAML file with the keys below\n"
        "  --dry-run       check model, corpora, rewards and run folder, print the resolved configuration and the\n"
        "                  placement plan, start nothing\n"
        "  --version       print the version\n"
        "  --help          print this\n\n"
        "Keys, their defaults, and what they mean; a value is YAML:\n"
        f"{format_options(describe_options())}"
    )
