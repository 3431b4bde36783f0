"""Metrics as curves: TensorBoard always, W&B where a project is named."""

import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from common.config.run import RunConfig
from common.errors import ConfigError
from common.runtime.atomic_files import atomic_write_text
from learner.records.record import Curves

FLUSH_S = 5
"""Seconds after which the library's thread has written; it does not do so when asked to flush."""


def curves_of(folder: Path, settings: RunConfig, stage: str, *, after_step: int | None = 0) -> list[Curves]:
    """Where a stage's points are drawn.

    Args:
        folder: of the run.
        settings: name the W&B project, if any.
        stage: `sft`, `grpo`, `validation` or `eval`.
        after_step: what the stage drew after this step is void; nothing where None.
    """
    curves: list[Curves] = [TensorBoard(folder / "tensorboard" / stage, after_step=after_step)]
    if settings.wandb_project:
        curves.append(WandB(project=settings.wandb_project, name=settings.name, folder=folder, stage=stage))
    return curves


class TensorBoard:
    """Event files of one folder, written without TensorFlow or torch."""

    def __init__(self, folder: Path, *, after_step: int | None = 0) -> None:
        """Opens the folder.

        Args:
            folder: of the event files; a stage of its own has one, as each counts its steps from 1.
            after_step: what earlier files of the folder hold after this step is hidden; nothing where None.
        """
        from tensorboardX import SummaryWriter

        purge_step = None if after_step is None else after_step + 1
        # the library names a file by the second: two of one second are to be two
        suffix = f".{secrets.token_hex(4)}"
        self._writer: Any = SummaryWriter(
            str(folder), purge_step=purge_step, filename_suffix=suffix, flush_secs=FLUSH_S
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)


class WandB:
    """A stage's points in the run of a W&B project: one run for all stages and attempts of a run folder.

    W&B refuses steps that do not rise, so each stage has an axis, `<stage>/step`. A step that a resumed run takes
    again is another point.
    """

    def __init__(self, *, project: str, name: str, folder: Path, stage: str) -> None:
        """Starts the run or resumes it, by the id in `wandb_id`.

        Raises:
            ConfigError: wandb is not installed.
        """
        library = import_wandb(project)
        own_id = _wandb_id(folder / "wandb_id")
        # one per process: another stage may have started it
        active = library.run
        if active is None or active.id != own_id:
            active = library.init(project=project, name=name, id=own_id, dir=str(folder), resume="allow")
        self._run: Any = active
        self._axis = f"{stage}/step"
        self._planes: set[str] = set()
        self._run.define_metric(self._axis)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for plane in sorted({name.split("/")[0] for name in metrics} - self._planes):
            self._planes.add(plane)
            self._run.define_metric(f"{plane}/*", step_metric=self._axis)
        self._run.log({**metrics, self._axis: step})


def import_wandb(project: str) -> Any:
    """The library, for a project that is named.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"run.wandb_project must be empty without wandb, got {project!r}; install it or drop the project"
        ) from error
    return cast(Any, wandb)


def _wandb_id(path: Path) -> str:
    """The run's, made once: W&B never takes an id again, not even that of a run it has deleted."""
    if not path.exists():
        atomic_write_text(path, uuid.uuid4().hex)
    return path.read_text()
