"""Checks the figures in documents against `docs/figures/*.json`.

    python -m tests.figures [--write]

Prints what is wrong, a line each, and exits 1 where anything is. `--write` first brings quoted figures and
generated tables up to date.
"""

import argparse
import sys

from tests.figures.quotes import DOCUMENTS, faults_of_all, rewritten
from tests.figures.stored import load


def main() -> int:
    """Writes when asked to, and checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        stored = load()
        for document in DOCUMENTS:
            document.write_text(rewritten(document.read_text(), stored))
    found = faults_of_all()
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
