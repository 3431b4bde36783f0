"""Checks the figures in documents against `docs/figures/*.json`.

    python -m tests.figures [--write]

Prints one line per fault, and exits with 1 if there are any. `--write` first updates quoted figures and generated
tables.
"""

import argparse
import sys

from tests.figures.quotes import DOCUMENTS, faults_of_all, rewritten
from tests.figures.stored import load


def main() -> int:
    """Updates the documents with `--write`, then checks them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        stored = load()
        for document in DOCUMENTS:
            document.write_text(rewritten(document.read_text(), stored))
    faults = faults_of_all()
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
