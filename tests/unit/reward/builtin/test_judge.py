"""The judge, against a small server that answers as one asked it to."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from common.config.reward import BuiltinRewardConfig, RewardConfig
from common.errors import ConfigError, ScoringError
from reward.builtin import judge
from reward.builtin.judge import JudgeReward
from reward.service import GroupReport, RewardService
from tests.support.reward.requests import make_request, value_of

RUBRIC = "Q: $question\nTruth: $label\nSaid: $transcript\nText: $completion\nFor $$5, end with Score: <0 to 5>.\n"


@dataclass
class Server:
    """What a judge answers, and what it was asked."""

    address: str
    replies: list[tuple[int, str]]
    """Status and body, in turn; the last one again and again."""
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    tokens: list[str | None] = field(default_factory=list[str | None])
    released: threading.Event = field(default_factory=threading.Event)
    """Answers wait for it."""

    def say(self, *texts: str) -> None:
        """Answers with these texts from now on."""
        self.replies = [(200, json.dumps({"choices": [{"message": {"content": text}}]})) for text in texts]


@pytest.fixture
def server() -> Generator[Server]:
    """On a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append(json.loads(body) | {"path": self.path})
            state.tokens.append(self.headers["Authorization"])
            state.released.wait(5)
            status, text = state.replies.pop(0) if len(state.replies) > 1 else state.replies[0]
            # who gave up waiting has hung up
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    state = Server(address=f"http://127.0.0.1:{listening.server_port}/v1", replies=[])
    state.say("Score: 4")
    state.released.set()
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        listening.shutdown()
        listening.server_close()
        thread.join()


@pytest.fixture
def rubric(tmp_path: Path) -> Path:
    """A rubric with every place."""
    path = tmp_path / "rubric.txt"
    path.write_text(RUBRIC)
    return path


def make_judge(server: Server, rubric: Path, **options: Any) -> JudgeReward:
    """A judge at the server."""
    return JudgeReward(endpoint=server.address, model="m", rubric=str(rubric), **options)


def test_a_judge_reads_the_rubric_and_scores_a_share(server: Server, rubric: Path) -> None:
    request = make_request("<think>$label</think>", label="sad", transcript="oh")
    assert value_of(make_judge(server, rubric)(request)) == 0.8
    (asked,) = server.asked
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("m", 0, 256)
    assert asked["messages"] == [
        {
            "role": "user",
            "content": "Q: How?\nTruth: sad\nSaid: oh\nText: <think>$label</think>\n"
            "For $5, end with Score: <0 to 5>.\n",
        }
    ]
    assert server.tokens == [None]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Score: 5", 1.0),
        ("score: 0", 0.0),
        ("First Score: 1. On reflection, **Score:** 2.5", 0.5),
        ('{"reason": "x", "score": 3}', 0.6),
    ],
)
def test_the_last_score_counts(server: Server, rubric: Path, reply: str, value: float) -> None:
    server.say(reply)
    assert value_of(make_judge(server, rubric)(make_request("x"))) == value


@pytest.mark.parametrize("reply", ["", "5", "Score: high", "Score: 6", "Score: -1", "my scoreboard: 3"])
def test_a_reply_without_a_score_is_an_error_unless_a_fallback_is_named(
    server: Server, rubric: Path, reply: str
) -> None:
    server.say(reply)
    with pytest.raises(ScoringError, match=r"must end with `Score: <number>` in \[0, 5\]"):
        make_judge(server, rubric)(make_request("x"))
    answer = make_judge(server, rubric, fallback=0.5)(make_request("x"))
    assert answer.value == 0.5
    assert answer.detail.startswith("fallback: judge must end with")
    assert answer.facts == {"fell_back": 1.0}


def test_what_was_scored_is_remembered_and_what_failed_is_not(server: Server, rubric: Path, tmp_path: Path) -> None:
    for cache in (None, str(tmp_path / "scores")):
        server.asked.clear()
        server.say("none", "Score: 2", "Score: 3")
        reward = make_judge(server, rubric, cache=cache, fallback=0.5)
        values = [value_of(reward(make_request("x"))) for _ in range(3)]
        assert values == [0.5, 0.4, 0.4]
        assert value_of(reward(make_request("y"))) == 0.6
        assert len(server.asked) == 3
    again = make_judge(server, rubric, cache=str(tmp_path / "scores"))
    assert value_of(again(make_request("x"))) == 0.4
    assert len(server.asked) == 3


def test_memory_forgets_the_oldest(server: Server, rubric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MAX_KEPT", 2)
    reward = make_judge(server, rubric)
    for text in ("a", "b", "c", "b", "c", "a"):
        reward(make_request(text))
    assert len(server.asked) == 4


def test_a_busy_endpoint_is_asked_again_and_a_refusal_is_final(server: Server, rubric: Path) -> None:
    score = server.replies[0]
    server.replies = [(503, "busy"), score]
    assert value_of(make_judge(server, rubric)(make_request("x"))) == 0.8
    server.replies = [(400, "no such model"), score]
    server.asked.clear()
    with pytest.raises(ScoringError, match="must answer, got status 400; see that it serves 'm'"):
        make_judge(server, rubric)(make_request("x"))
    assert len(server.asked) == 1


def test_an_endpoint_that_does_not_answer_in_time_is_an_error(server: Server, rubric: Path) -> None:
    server.released.clear()
    with pytest.raises(ScoringError, match=r"must answer, got no complete reply within 0.5 s"):
        make_judge(server, rubric, timeout_s=0.5)(make_request("x"))
    assert len(server.asked) == 2


class Drip:
    """A server that sends a byte now and then, for ever."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                    while not self._ended.wait(0.02):
                        connection.sendall(b" ")

    def close(self) -> None:
        """Ends what it sends."""
        self._ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()


def test_a_server_that_drips_is_given_up_at_its_time_and_leaves_nothing_behind(rubric: Path) -> None:
    drip = Drip()
    try:
        options: Any = {"endpoint": drip.address, "model": "m", "rubric": str(rubric), "timeout_s": 0.2}
        with pytest.raises(ScoringError, match=r"got no complete reply within 0.2 s"):
            JudgeReward(**options, attempts=1)(make_request("x"))
        entry = BuiltinRewardConfig(type="builtin", name="judge", options=options | {"fallback": 0.5})
        before = threading.active_count()

        async def ask() -> GroupReport:
            service = RewardService(RewardConfig(rewards=(entry,)))
            return await service.score_requests([make_request("x"), make_request("y")])

        report = asyncio.run(ask())
        assert isinstance(report.scores, list)
        assert [score.total for score in report.scores] == [0.5, 0.5]
        assert threading.active_count() <= before
    finally:
        drip.close()


def test_a_reply_without_end_is_cut_off(server: Server, rubric: Path) -> None:
    server.replies = [(200, " " * (judge.MAX_REPLY_BYTES + 1))]
    with pytest.raises(ScoringError, match="got more than 1048576 bytes"):
        make_judge(server, rubric)(make_request("x"))


def test_a_token_that_the_endpoint_repeats_is_not_shown(
    server: Server, rubric: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_A_TEST", "sesame")
    reward = make_judge(server, rubric, token_env="TOKEN_OF_A_TEST")
    for body in ("sesame", json.dumps({"choices": [{"message": {"content": "sesame is no score"}}]})):
        server.replies = [(200, body)]
        with pytest.raises(ScoringError, match=r"\[token\]") as caught:
            reward(make_request("x"))
        assert "sesame" not in str(caught.value)


def test_no_proxy_of_the_environment_reads_along(
    server: Server, rubric: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert value_of(make_judge(server, rubric)(make_request("x"))) == 0.8


@pytest.mark.parametrize("body", ["no json", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}'])
def test_an_answer_in_another_form_is_an_error(server: Server, rubric: Path, body: str) -> None:
    server.replies = [(200, body)]
    with pytest.raises(ScoringError, match="chat completions"):
        make_judge(server, rubric)(make_request("x"))


def test_the_token_comes_from_the_environment_and_is_not_shown(
    server: Server, rubric: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_A_TEST", "sesame")
    reward = make_judge(server, rubric, token_env="TOKEN_OF_A_TEST")
    reward(make_request("x"))
    assert server.tokens == ["Bearer sesame"]
    assert "sesame" not in repr(reward)
    monkeypatch.delenv("TOKEN_OF_A_TEST")
    with pytest.raises(
        ConfigError, match=r"judge.token_env must name a variable .*, got nothing in \$TOKEN_OF_A_TEST"
    ):
        make_judge(server, rubric, token_env="TOKEN_OF_A_TEST")


def test_text_that_is_no_unicode_is_judged_too(server: Server, rubric: Path) -> None:
    assert value_of(make_judge(server, rubric)(make_request("a\ud800b\x00"))) == 0.8
    assert "Text: a?b\x00\n" in server.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Read this\n$completion and $answer\n", r"got \$answer at .*rubric.txt:2; write \$\$ for a dollar"),
        ("$completion costs $ 5\n", r"got a lone \$ at .*rubric.txt:1"),
        ("Score it: $$completion\n", r"must contain \$completion, got none in .*rubric.txt"),
    ],
)
def test_a_rubric_that_cannot_be_filled_in_is_refused(server: Server, rubric: Path, text: str, said: str) -> None:
    rubric.write_text(text)
    with pytest.raises(ConfigError, match=said):
        make_judge(server, rubric)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint": "localhost:8000"}, "judge.endpoint must be like https://host:port"),
        ({"endpoint": None}, "judge.endpoint must be a valid string, got None"),
        ({"endpoint": "https://me:sesame@host/v1"}, "must hold no password, got one for 'host'"),
        ({"endpoint": "https://host/v1?key=sesame"}, "must end with its path, got a query for 'host'"),
        ({"endpoint": "http://far.example/v1"}, "must be https to another machine, got 'http://far.example'"),
        (
            {"endpoint": "http://far.example/v1", "allow_plain_http": True, "token_env": "PATH"},
            "must be https to another machine where there is a token",
        ),
        ({"rubric": "/no/such/file"}, "must be a text file, got '/no/such/file'"),
        ({"fallback": 5}, r"judge.fallback must be less than or equal to 1, got 5"),
        ({"timeout_s": 0}, "judge.timeout_s must be greater than 0, got 0"),
        ({"attempts": 0}, "judge.attempts must be greater than or equal to 1, got 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    server: Server, rubric: Path, options: dict[str, Any], said: str
) -> None:
    defaults: dict[str, Any] = {"endpoint": server.address, "model": "m", "rubric": str(rubric)}
    with pytest.raises(ConfigError, match=said):
        JudgeReward(**(defaults | options))
