"""Trains the supervised stage alone."""

from collections.abc import Sequence

from common.config.run import OmniConfig
from common.errors import ConfigError
from common.runtime.screen import Screen, print_end
from deploy.commands.command_line import run_command

PURPOSE = (
    "Trains on explanations, as the first stage of learner.main does, and leaves cold_start/hf in the run folder.\n"
    "learner.main with the same configuration resumes from there."
)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(argv, program="python -m learner.sft", purpose=PURPOSE, run=train, has_engines=False)


async def train(config: OmniConfig) -> None:
    """Runs the cold start unless the run has one; raises `ConfigError` without supervised steps."""
    # Ray takes seconds to import: --help and a mistake must not wait for it
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
