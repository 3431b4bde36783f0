"""Trains: all stages of a run."""

from collections.abc import Sequence

from common.config.run import OmniConfig
from common.runtime.screen import Screen
from deploy.commands.command_line import run_command

PURPOSE = (
    "Trains: a cold start if sft.steps > 0, then GRPO. Evaluates on held-out clips if evaluation.policies is set.\n"
    "The same command again resumes the run."
)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(argv, program="python -m learner.main", purpose=PURPOSE, run=train)


async def train(config: OmniConfig) -> None:
    """Runs all stages, from the start or from the last checkpoint."""
    # Ray takes seconds to import: --help and a mistake must not wait for it
    from deploy.reporting.progress import Progress
    from deploy.stages.run import run_stages
    from deploy.wiring import open_run

    async with open_run(config, Progress(Screen())) as opened:
        await run_stages(opened)
