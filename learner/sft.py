"""The supervised stage alone: `python -m learner.sft --config my.yaml [--sft.steps 200 ...]`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from learner.startup import guarded

if TYPE_CHECKING:
    from common.config.run import OmniConfig

PURPOSE = (
    "Trains on explanations, as the first stage of learner.main does, and leaves cold_start/hf in the run folder.\n"
    "learner.main with the same configuration resumes from there."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The supervised stage of a run."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    from deploy.commands.command_line import run_command

    return run_command(argv, program="python -m learner.sft", purpose=PURPOSE, run=run, has_engines=False)


async def run(config: "OmniConfig") -> None:
    """The cold start, unless it is there already.

    Raises:
        ConfigError: no supervised steps are asked for.
    """
    from common.errors import ConfigError
    from common.runtime.screen import Screen, print_end
    from deploy.reporting.progress import Progress
    from deploy.stages.run import run_cold_start
    from deploy.wiring import open_run

    if not config.sft.is_wanted:
        raise ConfigError("sft.steps must be >= 1 for this command, got 0; say how many, or give sft.epochs")
    progress = Progress(Screen())
    async with open_run(config, progress, has_engines=False) as opened:
        progress.say(f"checkpoint  {await run_cold_start(opened)}")
        resumed = ("--config", str(opened.folder / "config.yaml"), "--run.resume", "auto")
        print_end(progress.console, opened.folder, ["python", "-m", "learner.main", *resumed])


if __name__ == "__main__":
    sys.exit(main())
