"""Trains: `python -m learner.main --config my.yaml [--learner.optimizer.lr 1e-6 ...]`."""

import sys
from collections.abc import Sequence

from learner.startup import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> int:
        from deploy.commands import train

        return train.main(argv)

    return run_guarded(run)


if __name__ == "__main__":
    sys.exit(main())
