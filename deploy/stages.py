"""A run's stages, each taken up where an earlier attempt left it: judge, cold start, reinforce.

    untrained policy --judge--> cold start --judge--> GRPO --judge--> summary

What a stage leaves is whole or not there: `eval/<policy>.json`, `cold_start/`, `checkpoints/`.
"""

import time

import ray

from common.memory import MemorySampler
from deploy.judging import judge_untrained
from deploy.reinforcement import reinforce
from deploy.report import print_report
from deploy.summary import Summary, summarize, write_summary
from deploy.supervision import cold_start
from deploy.wiring import Run


async def run_stages(run: Run) -> Summary:
    """All that is configured and not yet done, then the summary and its tables."""
    started = time.perf_counter()
    with MemorySampler(session=ray.get_runtime_context().get_session_name()) as memory:
        await judge_untrained(run)
        start = await cold_start(run)
        publisher, ledger = await reinforce(run, start)
        memory.sample()
    config = run.config
    summary = summarize(
        run.folder,
        seed=config.run.seed,
        corpus_sha256=run.corpora.sha256,
        num_heldout=len(run.corpora.heldout),
        canary_tolerance=publisher.canary_tolerance if publisher else config.learner.publish.canary_tolerance,
        peak_memory_bytes=memory.peak_bytes,
        seconds_total=time.perf_counter()
        - started
        + run.progress.seconds["corpus"]
        + run.progress.seconds["model"],
        seconds_by_phase=run.progress.seconds,
    )
    write_summary(run.folder, summary)
    print_report(run.progress.console, run.folder, summary, publisher=publisher, failures=ledger.failures)
    return summary
