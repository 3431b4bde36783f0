"""Evaluates predictions or a checkpoint: `python -m learner.evaluate --help`."""

import sys
from collections.abc import Sequence

from learner.startup import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> int:
        from deploy.commands import evaluate

        return evaluate.main(argv)

    return run_guarded(run)


if __name__ == "__main__":
    sys.exit(main())
