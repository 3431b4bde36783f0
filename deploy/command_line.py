"""What the commands share: options, `--help`, `--dry-run`, and how a mistake, a failure and a stop are said."""

import argparse
import asyncio
import errno
import sys
from collections.abc import Awaitable, Callable, Sequence

from common.config.load import dump_config, load_config
from common.config.run import OmniConfig
from common.errors import OmniError, StopRequestedError, UserError

USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
FULL_OR_GONE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE}
)
"""What a machine does to a run that is right: the disk is full, a storage is gone. Other errors are ours."""


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
        if known.help:
            print(_help(program, purpose))
        elif known.version:
            print(_version())
        else:
            return _run(load_config(known.config, overrides), run, is_dry=known.dry_run)
    except UserError as error:
        return _say(f"error: {error}", USER_MISTAKE)
    return 0


def _run(config: OmniConfig, run: Callable[[OmniConfig], Awaitable[None]], *, is_dry: bool) -> int:
    """Runs or only checks, and says how it ended; a user's mistake is left to the caller."""
    again = "again" if config.run.resume == "auto" else "without --run.resume never"
    resumes = f"the same command {again} resumes"
    try:
        if is_dry:
            dry_run(config)
        else:
            asyncio.run(_awaited(run, config))
    except UserError:
        raise
    except StopRequestedError:
        return _say(f"stopped; {resumes} from here", INTERRUPTED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _say(f"interrupted; {resumes} from the last checkpoint", INTERRUPTED)
    except OmniError as error:
        return _say(_failed(f"{error}", resumes), FAILURE)
    except OSError as error:
        if error.errno not in FULL_OR_GONE:
            raise
        return _say(_failed(f"{error.filename or config.run.folder}: {error.strerror}", resumes), FAILURE)
    return 0


def dry_run(config: OmniConfig) -> None:
    """Checks what a run would be given, and prints the resolved configuration, the plan and what there is for it.

    Raises:
        UserError: something of it is not there.
    """
    from common.provenance import require_own_packages
    from deploy.machine import shortages, this_machine
    from deploy.placement import format_plan, placement_plan
    from deploy.preflight import check_inputs, missing_clips
    from deploy.run_folder import check_run_folder

    require_own_packages()
    found = check_inputs(config)
    folder = check_run_folder(config)
    plan, machine = placement_plan(config), this_machine()
    print(dump_config(config))
    print(format_plan(plan))
    print(f"\nthis machine  {machine}")
    print(f"run folder    {folder}")
    for warning in (*shortages(plan, machine), *missing_clips(found)):
        print(f"warning: {warning}")


async def _awaited(run: Callable[[OmniConfig], Awaitable[None]], config: OmniConfig) -> None:
    await run(config)


def _failed(what: str, resumes: str) -> str:
    return f"failed: {what}" if "same command" in what else f"failed: {what.rstrip('. ')}; {resumes}"


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
