"""Checks the user's rewards in another process, as their modules may do anything when they are imported."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence

from common.errors import ConfigError
from reward.hosts.process_host import worker_environment
from reward.plugins.loading import check_plugin
from reward.plugins.plugin import PluginSpec


def check_in_process(specs: Sequence[PluginSpec]) -> None:
    """Checks rewards without constructing them; raises `ConfigError`."""
    if not specs:
        return
    done = subprocess.run(
        [sys.executable, "-P", "-m", "reward.hosts.import_check"],
        input=pickle.dumps(list(specs)),
        stdout=subprocess.PIPE,
        env=worker_environment(),
        check=False,
    )
    try:
        problem = json.loads(done.stdout.decode().splitlines()[-1])
    except (ValueError, IndexError):
        names = ", ".join(repr(spec.entrypoint) for spec in specs)
        raise ConfigError(
            f"reward.rewards entrypoint must be importable, got exit code {done.returncode} for {names}; "
            "correct the module"
        ) from None
    if problem:
        raise ConfigError(problem)


def main() -> int:
    """Reads pickled specifications; prints the first problem."""
    specs: list[PluginSpec] = pickle.load(sys.stdin.buffer)
    with os.fdopen(os.dup(1), "w") as answer:
        # output of user code must not mix with the answer
        os.dup2(2, 1)
        problem = ""
        try:
            for spec in specs:
                check_plugin(spec)
        except ConfigError as error:
            problem = str(error)
        answer.write("\n" + json.dumps(problem))
    return 0


if __name__ == "__main__":
    sys.exit(main())
