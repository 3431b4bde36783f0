"""A reward by a language model with a rubric."""

import asyncio
import hashlib
import json
import re
import threading
from contextlib import aclosing
from dataclasses import field
from pathlib import Path
from string import Template
from typing import Any

from pydantic import Field

from common.errors import ConfigError, ScoringError
from common.runtime.atomic_files import atomic_write_text
from common.runtime.http_client import HttpClient, HttpError, HttpReplyError, HttpTarget
from reward.builtin.parts.options import builtin_reward
from reward.request import RewardRequest, RewardResult

PLACES = ("completion", "question", "label", "transcript")
_SCORE = re.compile(r"\bscore\b[\"'*\s]*[:=][\"'*\s]*(-?\d+(?:\.\d+)?)", re.IGNORECASE)
MAX_REPLY_BYTES = 2**20
MAX_KEPT = 65536  # scores in memory


@builtin_reward("judge")
class JudgeReward:
    """The score of a language model by a rubric, as a share of the highest.

    Formula: score / `max_score`, of the last `Score: <number>` in the reply at temperature 0. Range: 0 to 1.
    Source: the judged context and logic rewards of HumanOmniV2 (0 to 5).
    Needs: an OpenAI-compatible endpoint, and a rubric: a text file with `$completion`, perhaps `$question`,
    `$label` and `$transcript`, and `$$` for a dollar. It should ask for `Score: <number>`.
    Caution: a completion can persuade a judge; in HumanOmniV2 its share of the gain was "not significant".
    Keep `attempts` * `timeout_s` below `deadline_s`.
    """

    endpoint: str
    """Base address, such as `http://localhost:8000/v1`: https, or http on this machine."""
    model: str
    """Name of the model at the endpoint."""
    rubric: str
    """Path of the rubric."""
    max_score: float = Field(default=5.0, gt=0)
    """The highest score of the rubric."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Seconds of one request, to the last byte of its reply."""
    attempts: int = Field(default=2, ge=1)
    """Requests until one succeeds, if the endpoint is busy, fails or does not answer in time."""
    fallback: float | None = Field(default=None, ge=0, le=1)
    """Value, in [0, 1], if no score comes in time; None fails the group."""
    token_env: str | None = None
    """Environment variable with the endpoint's token; None for no token."""
    allow_plain_http: bool = False
    """Allow http to another machine, without a token: anybody on the network can read the texts."""
    cache: str | None = None
    """Folder of known scores; None keeps them in memory."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of a reply."""
    _template: Template = field(init=False, repr=False, compare=False)
    _target: HttpTarget = field(init=False, repr=False, compare=False)
    _scores: "ScoreCache" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        target = HttpTarget(
            url=self.endpoint,
            token_env=self.token_env,
            keys=("judge.endpoint", "judge.token_env"),
            allow_plain_http=self.allow_plain_http,
            max_reply_bytes=MAX_REPLY_BYTES,
        )
        object.__setattr__(self, "_template", read_rubric(Path(self.rubric)))
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_scores", ScoreCache(None if self.cache is None else Path(self.cache)))

    def __call__(self, request: RewardRequest) -> RewardResult:
        return asyncio.run(self.ask(request))

    async def ask(self, request: RewardRequest) -> RewardResult:
        """Scores a completion, from the cache if possible; raises `ScoringError` without a score and a fallback."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": self._prompt(request)}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        key = hashlib.sha256(json.dumps([self.endpoint, body], sort_keys=True).encode()).hexdigest()
        score = self._scores.get(key)
        try:
            if score is None:
                score = self._score_in(await self._reply_to(body))
                self._scores.put(key, score)
        except ScoringError as error:
            if self.fallback is None:
                raise
            return RewardResult(value=self.fallback, detail=f"fallback: {error}", facts={"fell_back": 1.0})
        return RewardResult(value=score / self.max_score, facts={"fell_back": 0.0})

    def _prompt(self, request: RewardRequest) -> str:
        record = request.record
        text = self._template.substitute(
            completion=request.completion,
            question=record.question,
            label=record.label,
            transcript=record.transcript if record.transcript is not None else "(not known)",
        )
        # a lone surrogate has no UTF-8 form
        return text.encode(errors="replace").decode()

    async def _reply_to(self, body: dict[str, Any]) -> str:
        reason = ""
        for attempt in range(self.attempts):
            if attempt:
                await asyncio.sleep(min(0.25 * 2.0 ** (attempt - 1), self.timeout_s))
            try:
                # a client belongs to one event loop, and calls may come from several
                async with aclosing(HttpClient(self._target)) as client:
                    reply = await client.post("/chat/completions", body, timeout_s=self.timeout_s)
            except HttpError as error:
                reason = str(error)
                if isinstance(error, HttpReplyError):
                    break
                continue
            if reply.status == 200:
                return _text_of(reply.content)
            reason = f"status {reply.status}"
            if reply.status not in (408, 429) and reply.status < 500:
                break
        raise ScoringError(
            f"judge at {self._target.shown} must answer, got {reason}; see that it serves {self.model!r}, or set "
            "fallback"
        )

    def _score_in(self, reply: str) -> float:
        scores = _SCORE.findall(reply)
        score = float(scores[-1]) if scores else None
        if score is None or not 0 <= score <= self.max_score:
            raise ScoringError(
                f"judge must end with `Score: <number>` in [0, {self.max_score:g}], got {reply[-200:]!r}; ask for "
                f"it in {self.rubric}"
            )
        return score


class ScoreCache:
    """Scores by key, in memory or in a folder; thread-safe."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: dict[str, float] = {}
        self._lock = threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> float | None:
        with self._lock:
            if self._folder is None:
                return self._kept.get(key)
            path = self._folder / f"{key}.json"
            return float(json.loads(path.read_text())) if path.exists() else None

    def put(self, key: str, score: float) -> None:
        with self._lock:
            if self._folder is not None:
                atomic_write_text(self._folder / f"{key}.json", json.dumps(score))
                return
            self._kept[key] = score
            if len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]


def read_rubric(path: Path) -> Template:
    """Reads a rubric; raises `ConfigError` if it is unreadable, has unknown names, or lacks `$completion`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.rubric must be a text file, got {str(path)!r}: {error}; fix the path") from error
    for number, line in enumerate(text.splitlines(), 1):
        template = Template(line)
        unknown = [name for name in template.get_identifiers() if name not in PLACES]
        if unknown or not template.is_valid():
            flaw = f"${unknown[0]}" if unknown else "a lone $"
            raise ConfigError(
                f"judge.rubric must name only {', '.join('$' + p for p in PLACES)}, got {flaw} at {path}:{number}; "
                "write $$ for a dollar"
            )
    if "completion" not in Template(text).get_identifiers():
        raise ConfigError(f"judge.rubric must contain $completion, got none in {path}; add it")
    return Template(text)


def _text_of(content: bytes) -> str:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        excerpt = content[:200].decode(errors="replace")
        raise ScoringError(f"judge must answer as OpenAI's chat completions, got {excerpt!r}; see the endpoint")
    return text
