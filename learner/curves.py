"""Metrics as curves: TensorBoard always, W&B where a project is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ConfigError


class TensorBoard:
    """Event files under `tensorboard/`, written without TensorFlow or torch."""

    def __init__(self, folder: Path, *, after_step: int = 0) -> None:
        """Opens the folder.

        Args:
            folder: of the event files.
            after_step: what earlier files hold behind this step is hidden.
        """
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=after_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to every curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class WandB:
    """A run of a W&B project, named as ours."""

    def __init__(self, *, project: str, name: str, folder: Path) -> None:
        """Starts or resumes the run.

        Raises:
            ConfigError: wandb is not installed.
        """
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                f"run.wandb_project must be empty without wandb, got {project!r}; install it or drop the project"
            ) from error
        self._run: Any = wandb.init(project=project, name=name, id=name, dir=str(folder), resume="allow")  # pyright: ignore

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs a step."""
        self._run.log(dict(metrics), step=step)
