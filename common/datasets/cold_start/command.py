"""The options of `python -m common.datasets make-cold-start`."""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

from common.config.corpora import AnyCorpusConfig
from common.datasets.cold_start.records import (
    NUM_ANNOTATED,
    NUM_EXPLAINED,
    Explained,
    from_reasons,
    shuffled,
    write_cold_start,
)
from common.datasets.files.tables import resolved
from common.datasets.reader import read_corpus
from common.errors import ConfigError
from common.runtime.screen import Screen, bar, print_end
from common.types import Record


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds this command's options; those of the corpus are added separately."""
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument(
        "--from", choices=("reasons", "model"), default="reasons", dest="origin", help="origin of the explanations"
    )
    parser.add_argument(
        "--count",
        type=int,
        help=f"clips; as in the paper, {NUM_EXPLAINED} from reasons and {NUM_ANNOTATED} from a model",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of clips")
    parser.add_argument("--endpoint", help="address of the model: https://host/v1, or http://localhost:8000/v1")
    parser.add_argument("--model", help="name of the model at the endpoint")
    parser.add_argument(
        "--token-env", default="OPENAI_API_KEY", help="variable with the token of the endpoint; '' for no token"
    )
    parser.add_argument(
        "--allow-plain-http",
        action="store_true",
        help="allow http without a token to another machine; others can read the clips",
    )
    parser.add_argument("--attempts", type=int, default=4, help="most answers per clip")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--parallel", type=int, default=4, help="clips in flight")


def make_cold_start(chosen: argparse.Namespace, source: AnyCorpusConfig) -> int:
    """Writes the JSON and its provenance, and prints a summary as one JSON object.

    Returns 0 if as many clips as requested have an explanation, else 1; raises `UserError`.
    """
    has_model = chosen.origin == "model"
    count = chosen.count or (NUM_ANNOTATED if has_model else NUM_EXPLAINED)
    if count < 1 or chosen.attempts < 1 or chosen.parallel < 1:
        raise ConfigError("--count, --attempts and --parallel must be >= 1, got less; see --help")
    out = resolved(chosen.out)
    if not out.parent.is_dir() or out.suffix != ".json":
        raise ConfigError(
            f"--out must be a .json file in an existing folder, got {str(out)!r}; choose another path"
        )
    # a model explains clips without reasons
    corpus = read_corpus(source, split="train" if has_model else "cold_start", taxonomy=chosen.taxonomy)
    if has_model:
        explained, verdicts = asyncio.run(_sampled(chosen, corpus.records, count=count, out=out))
    else:
        explained, verdicts = from_reasons(corpus.records, count=count, seed=chosen.seed), Counter[str]()
    beside = write_cold_start(out, explained)
    summary = {
        "written": len(explained),
        "wanted": count,
        "labels": dict(Counter(each.record.label for each in explained)),
        "verdicts": dict(verdicts),
        "dropped": dict(Counter(d.reason for d in corpus.dropped)),
        "path": str(out),
        "provenance": str(beside),
    }
    sys.stdout.write(f"{json.dumps(summary, ensure_ascii=False)}\n")
    look = ("inspect", "--format", "r1_omni", "--root", str(out), "--taxonomy", chosen.taxonomy)
    print_end(Screen(stderr=True), out.parent, ["python", "-m", "common.datasets", *look])
    return 0 if len(explained) >= count else 1


async def _sampled(
    chosen: argparse.Namespace, records: tuple[Record, ...], *, count: int, out: Path
) -> tuple[list[Explained], Counter[str]]:
    from common.datasets.cold_start.endpoint import Endpoint
    from common.datasets.cold_start.rejection import Sampling, sample_rationales

    if not chosen.endpoint or not chosen.model:
        raise ConfigError("--from model must come with --endpoint and --model, got at most one of them; see --help")
    sampling = Sampling(
        count=count,
        attempts=chosen.attempts,
        taxonomy=chosen.taxonomy,
        model=chosen.model,
        temperature=chosen.temperature,
        seed=chosen.seed,
        num_parallel=chosen.parallel,
    )
    order = shuffled(records, seed=chosen.seed)
    endpoint = Endpoint(
        chosen.endpoint,
        model=chosen.model,
        token_env=chosen.token_env if os.environ.get(chosen.token_env) else None,
        allow_plain_http=chosen.allow_plain_http,
    )
    try:
        with bar(Screen(stderr=True), "explained") as update:
            outcome = await sample_rationales(
                order,
                endpoint.ask,
                sampling,
                log=out.with_suffix(".attempts.jsonl"),
                on_accepted=lambda done: update(min(done, count), count),
            )
    finally:
        await endpoint.close()
    kept = [outcome.explained[r.prompt_id] for r in order if r.prompt_id in outcome.explained][:count]
    return kept, outcome.verdicts
