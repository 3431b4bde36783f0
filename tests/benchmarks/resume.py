"""How long a run takes from the command to its first new step when it resumes.

    python -m tests.benchmarks.resume [--check] [--minutes M]

Prints JSON. A small recipe takes two steps, and then, in a process of its own, a third. `over_engine_start_s` is
the time to that step beyond what the engines take to start. `--check` exits 1 where it misses its target.
"""

import json
import sys
import time
from typing import Any

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic.corpus import write_synthetic_corpus
from tests.benchmarks.part import Part, boxed, parser_of
from tests.e2e.support import lines_of, start, write_recipe

TARGET_S = 20.0
MINUTES = 6.0


def measure(part: Part) -> dict[str, Any]:
    """Two attempts at one run."""
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    corpus = write_synthetic_corpus(part.folder / "corpus", sizes)
    config = write_recipe(part.folder / "run.yaml", root=part.folder, corpus=corpus)
    schedule = ("--learner.optimizer.schedule", "constant")
    for steps, what in (("2", "a run of two steps"), ("3", "resumed for a third")):
        began = time.time()
        with part.measurement(what):
            done = start("--config", str(config), "--learner.steps", steps, *schedule)
        assert done.returncode == 0, done.stderr[-2000:]
    run = part.folder / "test"
    first_step = next(
        event["time"]
        for event in lines_of(run / "events.jsonl")
        if event["step"] == 3 and event["phase"] == "publish" and event["event"] == "end"
    )
    engines = lines_of(run / "attempts.jsonl")[-1]["seconds_by_phase"]["engines"]
    return {
        "resume_to_first_step_s": first_step - began,
        "engine_start_s": engines,
        "over_engine_start_s": first_step - began - engines,
        "target_s": TARGET_S,
    }


def main() -> int:
    """Measures, prints, and checks when asked to."""
    arguments = parser_of(__doc__, minutes=MINUTES).parse_args()
    with boxed("resume", minutes=arguments.minutes) as part:
        result = measure(part)
    print(json.dumps(result, indent=1))
    return 1 if arguments.check and result["over_engine_start_s"] > TARGET_S else 0


if __name__ == "__main__":
    sys.exit(main())
