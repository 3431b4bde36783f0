"""Runs a recipe: `python -m learner.main --config my.yaml [--learner.optimizer.lr 1e-6 ...]`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from learner.startup import guarded

if TYPE_CHECKING:
    from common.config.run import OmniConfig

PURPOSE = (
    "Trains: a cold start if sft.steps > 0, then GRPO, judged on held-out clips if evaluation.policies is given.\n"
    "The same command again resumes where the run stopped."
)


def main(argv: Sequence[str] | None = None) -> int:
    """All stages of a run."""
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    from deploy.commands.command_line import run_command

    return run_command(argv, program="python -m learner.main", purpose=PURPOSE, run=run)


async def run(config: "OmniConfig") -> None:
    """One run, from nothing or from where it stopped, to its closing tables."""
    from common.runtime.screen import Screen
    from deploy.reporting.progress import Progress
    from deploy.stages.run import run_stages
    from deploy.wiring import open_run

    async with open_run(config, Progress(Screen())) as opened:
        await run_stages(opened)


if __name__ == "__main__":
    sys.exit(main())
