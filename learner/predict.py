"""Answers clips with a checkpoint: `python -m learner.predict --help`."""

import sys
from collections.abc import Sequence

from learner.startup import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> int:
        from deploy.commands import predict

        return predict.main(argv)

    return run_guarded(run)


if __name__ == "__main__":
    sys.exit(main())
