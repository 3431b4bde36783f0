"""A run's stages; each resumes an earlier attempt.

    untrained policy --evaluate--> cold start --evaluate--> GRPO --evaluate--> summary

The output of a stage is complete or absent: `eval/<policy>.json`, `cold_start/`, `checkpoints/`.
"""

import shlex

import ray

from common.runtime.peak_memory import MemorySampler
from deploy.reporting.attempts import attempt
from deploy.reporting.report import print_report
from deploy.reporting.summary import Summary, summarize, write_summary
from deploy.stages.evaluation_stage import evaluate_untrained
from deploy.stages.grpo_stage import run_grpo_stage
from deploy.stages.sft_stage import run_sft_stage
from deploy.wiring import Run
from learner.checkpoints.checkpoint import checkpoints


async def run_cold_start(run: Run) -> str:
    """Runs the supervised stage alone; returns its checkpoint."""
    memory = MemorySampler(session=ray.get_runtime_context().get_session_name())
    with attempt(run.folder, run.progress, memory), memory:
        return await run_sft_stage(run)


async def run_stages(run: Run) -> Summary:
    """Runs all configured, unfinished stages, then prints the summary and its tables."""
    memory = MemorySampler(session=ray.get_runtime_context().get_session_name())
    with attempt(run.folder, run.progress, memory), memory:
        await evaluate_untrained(run)
        start = await run_sft_stage(run)
        await run_grpo_stage(run, start)
    summary = summarize(
        run.folder,
        seed=run.config.run.seed,
        corpus_sha256=run.corpora.sha256,
        num_heldout=len(run.corpora.heldout),
    )
    write_summary(run.folder, summary)
    print_report(run.progress.console, run.folder, summary)
    run.progress.say(f"next        {shlex.join(_next(run))}")
    return summary


def _next(run: Run) -> list[str]:
    """The next command for the user: an evaluation, or a prediction if no clips are held out."""
    config, settings = str(run.folder / "config.yaml"), run.config
    if settings.data.heldout is not None or run.corpora.heldout:
        return ["python", "-m", "learner.evaluate", "--config", config, "--run", settings.run.name]
    newest = next(iter(checkpoints(run.folder)), run.folder / "cold_start")
    clip, out = run.corpora.train[0].clip, str(run.folder / "predictions.jsonl")
    options = ["--config", config, "--taxonomy", settings.data.taxonomy, "--out", out]
    file = str(clip.video_path or clip.audio_path)
    return ["python", "-m", "learner.predict", "--model", str(newest / "hf"), *options, file]
