"""python -m common.datasets: looks at a corpus before a run does, and makes data for the cold start.

inspect            counts, lengths, what is left out, what would fail, what overlaps
make-cold-start    R1-Omni's JSON of explanations, from a corpus' reasons or from a model's
"""

import sys

from common.datasets.command import main

if __name__ == "__main__":
    sys.exit(main())
