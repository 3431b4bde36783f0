"""Trains the supervised stage: `python -m learner.sft --config my.yaml [--sft.steps 200 ...]`."""

import sys
from collections.abc import Sequence

from learner.startup import run_guarded


def main(argv: Sequence[str] | None = None) -> int:
    def run() -> int:
        from deploy.commands import sft

        return sft.main(argv)

    return run_guarded(run)


if __name__ == "__main__":
    sys.exit(main())
