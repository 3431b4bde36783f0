"""python -m common.datasets: inspects a corpus before a run, and makes data for the cold start.

inspect            counts, lengths, left-out clips, faults, overlaps
make-cold-start    R1-Omni's JSON of explanations, from the reasons of a corpus or of a model
"""

import sys

from common.datasets.command import main

if __name__ == "__main__":
    sys.exit(main())
