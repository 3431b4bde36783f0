"""How long a run takes from the command to its first new step when it resumes.

    python -m tests.benchmarks.resume [--check]

Prints JSON. A small recipe takes two steps, and then, in a process of its own, a third. `over_engine_start_s` is
the time to that step beyond what the engines take to start. `--check` exits 1 where it misses its target.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.config.data import SyntheticDataConfig
from common.datasets.synthetic import write_synthetic_corpus
from tests.e2e.support import lines_of, start, write_recipe

TARGET_S = 20.0


def measure(folder: Path) -> dict[str, Any]:
    """Two attempts at one run."""
    sizes = SyntheticDataConfig(type="synthetic", num_cold_start=14, num_train=10, num_validation=0, num_heldout=7)
    corpus = write_synthetic_corpus(folder / "corpus", sizes)
    config = write_recipe(folder / "run.yaml", root=folder, corpus=corpus)
    for steps in ("2", "3"):
        began = time.time()
        done = start("--config", str(config), "--learner.steps", steps, "--learner.optimizer.schedule", "constant")
        assert done.returncode == 0, done.stderr[-2000:]
    run = folder / "test"
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder))
    print(json.dumps(result, indent=1))
    return 1 if check and result["over_engine_start_s"] > TARGET_S else 0


if __name__ == "__main__":
    sys.exit(main())
