"""Shared parts of the commands: options, `--help`, `--dry-run`, messages and exit codes."""

import asyncio
import errno
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common.config.load import dump_config, load_config
from common.config.run import OmniConfig, RunConfig
from common.errors import ClusterError, ConfigError, OmniError, StopRequestedError, UserError
from common.runtime.command import FAILURE, INTERRUPTED, USER_MISTAKE, CommandParser, say

FULL_OR_GONE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE}
)
"""Errors of the machine, such as a full disk or lost storage. All others are errors of this program."""


def run_command(
    argv: Sequence[str] | None,
    *,
    program: str,
    purpose: str,
    run: Callable[[OmniConfig], Coroutine[Any, Any, None]],
    is_resumable: bool = True,
    has_engines: bool = True,
    is_given: bool = False,
) -> int:
    """Parses, checks and runs; a user's mistake is one line and exit code 2.

    Args:
        is_resumable: the same command continues a stopped run.
        has_engines: the command starts engines.
        is_given: the command's own options name its model or data; else the configuration must.
    """
    parser = CommandParser(prog=program, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--cluster")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        known, overrides = parser.parse_known_args(argv)
        if known.help:
            print(_help(program, purpose))
        elif known.version:
            from common.runtime.provenance import installed_version

            print(f"omni-rlvr {installed_version()}")
        else:
            if known.cluster and not known.dry_run:
                raise ConfigError(
                    "--cluster must come with --dry-run, got it alone; a run reads the cluster's resources itself"
                )
            config = load_config(known.config, overrides)
            if not (is_given or known.config or known.dry_run):
                _require_model_and_data(overrides)
            if known.dry_run:
                work = partial(dry_run, config, cluster=known.cluster, has_engines=has_engines)
            else:
                work = partial(asyncio.run, run(config))
            return _run(work, config.run, is_resumable=is_resumable)
    except UserError as error:
        return say(f"error: {error}", USER_MISTAKE)
    return 0


def _require_model_and_data(overrides: Sequence[str]) -> None:
    """Refuses a run without a configuration file, a model or data: the defaults are for a random model."""
    missing = [name for name in ("model", "data") if not any(key.startswith(f"--{name}.") for key in overrides)]
    if missing:
        raise ConfigError(
            "a run must be given by --config FILE, or by keys of a model and of data such as --model.path DIR "
            f"--data.source.path FILE, got no key of {' or '.join(missing)}; configurations to begin with are in "
            f"{Path(__file__).parents[1] / 'configs'}, `make demo` runs one of them, --help lists every key"
        )


def _run(work: Callable[[], None], settings: RunConfig, *, is_resumable: bool) -> int:
    """Runs the command and reports its end; a user's mistake is left to the caller."""
    again = "again" if settings.resume == "auto" else "without --run.resume never"
    resumes = f"the same command {again} resumes" if is_resumable else "the same command starts again"
    here, checkpoint = (" from here", " from the last checkpoint") if is_resumable else ("", "")
    try:
        work()
    except UserError:
        raise
    except StopRequestedError:
        return say(f"stopped; {resumes}{here}", INTERRUPTED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return say(f"interrupted; {resumes}{checkpoint}", INTERRUPTED)
    except OmniError as error:
        return say(_failed(f"{error}", resumes), FAILURE)
    except OSError as error:
        if error.errno not in FULL_OR_GONE:
            raise
        return say(_failed(f"{error.filename or settings.folder}: {error.strerror}", resumes), FAILURE)
    return 0


def dry_run(config: OmniConfig, *, cluster: str | None, has_engines: bool) -> None:
    """Prints the resolved configuration, the placement and the memory plan, and checks the inputs.

    `cluster` is like `cpus=64,gpus=8`; None for this machine. Raises `UserError`.
    """
    from deploy.checks.machine import free_memory_bytes, parse_cluster, this_machine
    from deploy.checks.memory_plan import format_memory, model_sizes, require_free_memory, require_memory
    from deploy.checks.placement import format_plan, placement_plan, shortages
    from deploy.checks.preflight import check_inputs, left_out, missing_clips
    from deploy.run_folder import check_run_folder

    machine = this_machine() if cluster is None else parse_cluster(cluster)
    corpora = check_inputs(config)
    folder, plan = check_run_folder(config), placement_plan(config)
    place = "this machine" if cluster is None else "the cluster"
    lacks = list(shortages(plan, machine.resources, place=place))
    if cluster is not None and lacks:
        raise ClusterError(lacks[0])
    print(dump_config(config))
    print(format_plan(plan))
    if config.model.path is None:
        print("\nmemory        a tiny model, built when the run starts: give model.path for a plan")
    else:
        sizes = model_sizes(Path(config.model.path).expanduser())
        print(f"\n{format_memory(config, sizes)}")
        if not lacks:
            # this machine's free memory says nothing about a cluster
            num_engines = config.rollout.num_engines if has_engines and cluster is None else 0
            require_free_memory(config, sizes, num_engines=num_engines, free_bytes=free_memory_bytes())
            require_memory(config, sizes, device_bytes=machine.gpu_memory_bytes, host_bytes=machine.memory_bytes)
    print(f"\n{place:<12}  {machine}")
    print(f"run folder    {folder}")
    for warning in (*lacks, *left_out(corpora), *missing_clips(corpora)):
        print(f"warning: {warning}")


def _failed(what: str, resumes: str) -> str:
    return f"failed: {what}" if "same command" in what else f"failed: {what.rstrip('. ')}; {resumes}"


def _help(program: str, purpose: str) -> str:
    from common.config.describe import describe_options, format_options

    return (
        f"{program} [--config FILE] [--dry-run [--cluster WHAT]] [--KEY VALUE ...]\n\n"
        f"{purpose}\n\n"
        "  --config FILE   a YAML file with the keys below\n"
        "  --dry-run       check model, corpora, rewards and run folder, print the resolved configuration and the\n"
        "                  placement and memory plans, start nothing\n"
        "  --cluster WHAT  what a dry run's plans must fit instead of this machine: cpus=64,gpus=8; if not 80,\n"
        "                  gpu_memory_gib=40; with memory_gib=512 the hosts' memory is checked too\n"
        "  --version       print the version\n"
        "  --help          print this\n\n"
        "Keys, their defaults, and what they mean; a value is YAML:\n"
        f"{format_options(describe_options())}"
    )
