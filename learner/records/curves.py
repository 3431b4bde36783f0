"""Metrics as curves: in TensorBoard, and in W&B if a project is named."""

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
"""Seconds between writes of the library's thread, which a flush does not cause."""


def curves_of(folder: Path, settings: RunConfig, stage: str, *, after_step: int | None = 0) -> list[Curves]:
    """The curves of a stage: `sft`, `grpo`, `validation` or `eval`. Its points after `after_step` are void."""
    curves: list[Curves] = [TensorBoard(folder / "tensorboard" / stage, after_step=after_step)]
    if settings.wandb_project:
        curves.append(WandB(project=settings.wandb_project, name=settings.name, folder=folder, stage=stage))
    return curves


class TensorBoard:
    """Event files of one folder, written without TensorFlow or torch."""

    def __init__(self, folder: Path, *, after_step: int | None = 0) -> None:
        """Opens a stage's folder; points of earlier files after `after_step` are hidden, none for None."""
        from tensorboardX import SummaryWriter

        purge_step = None if after_step is None else after_step + 1
        # the library names files by the second
        suffix = f".{secrets.token_hex(4)}"
        self._writer: Any = SummaryWriter(
            str(folder), purge_step=purge_step, filename_suffix=suffix, flush_secs=FLUSH_S
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)


class WandB:
    """A stage's points in W&B, in one run for all stages and attempts; a repeated step is a new point."""

    def __init__(self, *, project: str, name: str, folder: Path, stage: str) -> None:
        """Starts the run or resumes it, by the id in `wandb_id`."""
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                f"run.wandb_project must be empty without wandb, got {project!r}; install it or drop the project"
            ) from error
        library, run_id = cast(Any, wandb), _wandb_id(folder / "wandb_id")
        # a process has one active run, which another stage may have started
        active = library.run
        if active is None or active.id != run_id:
            active = library.init(project=project, name=name, id=run_id, dir=str(folder), resume="allow")
        self._run: Any = active
        # an axis per stage: W&B refuses steps that do not rise
        self._axis = f"{stage}/step"
        self._planes: set[str] = set()
        self._run.define_metric(self._axis)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for plane in sorted({name.split("/")[0] for name in metrics} - self._planes):
            self._planes.add(plane)
            self._run.define_metric(f"{plane}/*", step_metric=self._axis)
        self._run.log({**metrics, self._axis: step})


def _wandb_id(path: Path) -> str:
    # random: W&B refuses an id that it has seen, even of a deleted run
    if not path.exists():
        atomic_write_text(path, uuid.uuid4().hex)
    return path.read_text()
