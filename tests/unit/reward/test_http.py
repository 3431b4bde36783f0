"""The reward service over HTTP: order, limits, tokens; no input fails it, and it repeats none."""

import asyncio
import gc
import gzip
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.load import load_config
from common.config.reward import BuiltinRewardConfig, HttpRewardConfig, PythonRewardConfig, RewardConfig, RewardKind
from common.errors import ConfigError
from common.types import Failure
from reward.hosts import http_host
from reward.hosts.deadlines_and_retries import PooledReward
from reward.hosts.http_host import HttpHost
from reward.hosts.reward_host import HostLostError
from reward.http import is_loopback, token_for
from reward.service import GroupReport, RewardService
from reward.web.app import create_app
from reward.web.gates import RequestLimits
from tests.support.builders import make_request
from tests.support.http_server import Reply, http_server

TOKEN = "a-token-of-enough-letters"
RIGHT = "<think>x</think><answer>happy</answer>"
PAPER = RewardConfig().rewards
FAILING = PythonRewardConfig(
    type="python", name="failing", entrypoint="tests.support.reward.user:failing", max_retries=0
)


def with_client(
    act: Callable[[httpx.AsyncClient], Awaitable[Any]],
    *,
    rewards: tuple[RewardKind, ...] = PAPER,
    token: str | None = None,
    media_root: Path | None = None,
    limits: RequestLimits | None = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Runs something with a client of a service; an exception of the service's is one here."""

    async def run() -> Any:
        service = RewardService(RewardConfig(rewards=rewards))
        app = create_app(service, token=token, media_root=media_root, limits=limits or RequestLimits())
        transport = httpx.ASGITransport(app=app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://rewards", headers=headers) as client:
                return await act(client)
        finally:
            service.close()

    return asyncio.run(run())


def scored(*samples: Mapping[str, Any], **settings: Any) -> httpx.Response:
    """The answer about these samples."""
    return with_client(lambda client: client.post("/v1/score", json={"samples": list(samples)}), **settings)


def refused(response: httpx.Response) -> tuple[int, str]:
    """Status and field."""
    told = response.json()
    assert told.keys() == {"field", "message"}
    assert told["message"]
    return response.status_code, told["field"]


def test_a_batch_comes_back_in_its_order_with_its_breakdown() -> None:
    texts = ["happy", RIGHT, "sad", "<think>x</think><answer>sad</answer>"]
    response = scored(*({"completion": text, "label": "happy"} for text in texts))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [r["total"] for r in results] == [1.0, 2.0, 0.0, 1.0]
    assert results[1]["breakdown"] == {"accuracy_r1omni": 1.0, "format_r1omni": 1.0}
    assert results[3]["breakdown"] == {"accuracy_r1omni": 0.0, "format_r1omni": 1.0}
    assert all(r["error"] is None for r in results)


def test_a_reward_that_fails_is_an_error_of_its_group_without_a_traceback() -> None:
    samples = [
        {"completion": "a", "label": label, "group": group}
        for label, group in (("fear", "one"), ("happy", "two"), ("fear", "one"), ("happy", "two"))
    ]
    response = scored(*samples, rewards=(FAILING,))
    assert response.status_code == 200
    assert [r["total"] for r in response.json()["results"]] == [None, 1.0, None, 1.0]
    error = response.json()["results"][0]["error"]
    assert error == {"reason": "failing-error", "detail": "ValueError: no fear"}
    assert "Traceback" not in response.text


def test_what_a_reward_tells_is_answered_though_it_is_no_unicode() -> None:
    entry = PythonRewardConfig(
        type="python", name="odd", entrypoint="tests.support.reward.user:surrogate", max_retries=0
    )
    samples = [{"completion": "a", "label": label, "group": label} for label in ("fear", "happy")]
    bad, good = scored(*samples, rewards=(entry,)).json()["results"]
    assert bad["error"] == {"reason": "odd-error", "detail": "ValueError: a \\udc80 half"}
    assert (good["total"], good["details"]) == (1.0, {"odd": "a \\udc80 half"})
    assert good["facts"] == {"odd/a \\udc80 half": 1.0}


def test_without_a_group_those_of_a_prompt_are_one_and_any_other_is_its_own() -> None:
    samples = [
        {"completion": "a", "label": label, "prompt_id": prompt_id}
        for label, prompt_id in (("fear", "p"), ("happy", "p"), ("happy", "q"), ("fear", ""), ("happy", ""))
    ]
    results = scored(*samples, rewards=(FAILING,)).json()["results"]
    assert [r["total"] for r in results] == [None, None, 1.0, None, 1.0]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b'{"samples": [}', "body"),
        (b"\xff\xfe", "body"),
        (b'{"samples": [{"completion": "\\ud800"}]}', "samples.0.completion"),
        (b'{"samples": [{"completion": NaN}]}', "samples.0.completion"),
        (b"[" * 100_000, "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b"{}", "samples"),
        (b'{"samples": []}', "samples"),
        (b'{"samples": [{}]}', "samples.0.completion"),
        (b'{"samples": [{"completion": 3}]}', "samples.0.completion"),
        (b'{"samples": [{"completion": "a", "lable": "happy"}]}', "samples.0.lable"),
        (b'{"samples": [{"completion": "a"}, {"completion": "a", "token_ids": [-1]}]}', "samples.1.token_ids.0"),
        (b'{"samples": [{"completion": "a", "duration_s": 1e999}]}', "samples.0.duration_s"),
        (b'{"samples": [{"completion": "a", "label_distribution": {"a": NaN}}]}', "samples.0.label_distribution.a"),
        (b'{"samples": [{"completion": "a", "video_path": "/etc/passwd"}]}', "samples.0.video_path"),
        (json.dumps({"samples": [{"completion": "a" * 100_001}]}).encode(), "samples.0.completion"),
        (json.dumps({"samples": [{"completion": "a"}] * 1025}).encode(), "samples"),
        (json.dumps({"samples": [{"completion": "a"}], "more": 1}).encode(), "more"),
    ],
)
def test_bad_input_is_refused_with_the_fields_name(body: bytes, field: str) -> None:
    response = with_client(
        lambda client: client.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
    )
    assert refused(response) == (422, field)


def test_a_refusal_repeats_nothing_of_what_was_sent() -> None:
    response = scored({"completion": "a", "label": ["a secret"]})
    assert refused(response) == (422, "samples.0.label")
    assert "secret" not in response.text


def test_a_body_that_is_too_long_or_no_json_is_refused() -> None:
    limits = RequestLimits(max_body_bytes=1000)
    assert refused(scored({"completion": "a" * 1000}, limits=limits)) == (413, "body")
    response = with_client(lambda client: client.post("/v1/score", content=b"a=1"))
    assert refused(response) == (415, "content-type")


def test_who_sends_a_body_too_slowly_is_refused() -> None:
    async def slowly() -> Any:
        yield b'{"samples": '
        await asyncio.sleep(30)
        yield b"[]}"

    response = with_client(
        lambda client: client.post("/v1/score", content=slowly()), limits=RequestLimits(body_s=0.05)
    )
    assert refused(response) == (408, "body")


def test_files_are_taken_from_the_media_root_alone(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media", tmp_path / "other"
    inside.mkdir()
    outside.mkdir()
    (inside / "way_out").symlink_to(outside)
    good = {"completion": "a", "video_path": str(inside / "a.mp4")}
    assert scored(good, media_root=inside).status_code == 200
    for path in (outside / "a.mp4", inside / ".." / "other" / "a.mp4", inside / "way_out" / "a.mp4", "a\0b"):
        response = scored({"completion": "a", "audio_path": str(path)}, media_root=inside)
        assert refused(response) == (422, "samples.0.audio_path")


@pytest.mark.parametrize(
    ("limits", "codes"),
    [(RequestLimits(max_samples=16), [200, 200, 429, 429]), (RequestLimits(max_requests=1), [200, 429, 429, 429])],
)
def test_beyond_its_limits_the_service_asks_to_come_again(limits: RequestLimits, codes: list[int]) -> None:
    sleeping = PythonRewardConfig(
        type="python", name="sleeping", entrypoint="tests.support.reward.user:sleeping", deadline_s=1.0
    )

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        async def ask() -> httpx.Response:
            return await client.post("/v1/score", json={"samples": [{"completion": "a", "label": "fear"}] * 8})

        first = await asyncio.gather(*(ask() for _ in range(4)))
        return [*first, await client.get("/healthz")]

    *answers, health = with_client(crowd, rewards=(sleeping,), limits=limits)
    assert sorted(a.status_code for a in answers) == codes
    assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 429)
    assert health.status_code == 200


def test_bodies_that_are_held_are_bounded_together() -> None:
    sleeping = PythonRewardConfig(
        type="python", name="sleeping", entrypoint="tests.support.reward.user:sleeping", deadline_s=1.0
    )

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        body = {"samples": [{"completion": "a" * 600, "label": "fear"}]}
        first = await asyncio.gather(*(client.post("/v1/score", json=body) for _ in range(4)))
        # what was answered or refused is held no more
        return [
            *first,
            await client.post("/v1/score", json={"samples": [{"completion": "a" * 900, "label": "sad"}]}),
        ]

    *answers, last = with_client(
        crowd, rewards=(sleeping,), limits=RequestLimits(max_body_bytes=1000, max_held_bytes=1500)
    )
    assert sorted(a.status_code for a in answers) == [200, 200, 429, 429]
    assert {a.headers["retry-after"] for a in answers if a.status_code == 429} == {"1"}
    assert last.status_code == 200


def test_only_who_shows_the_token_is_answered() -> None:
    async def visit(client: httpx.AsyncClient) -> list[int]:
        body = {"samples": [{"completion": "a"}]}
        scores = [await client.post("/v1/score", json=body)]
        others = [await client.get(path) for path in ("/v1/rewards", "/metrics", "/openapi.json", "/docs")]
        health = [await client.get(path) for path in ("/healthz", "/readyz")]
        return [response.status_code for response in scores + others + health]

    assert with_client(visit, token=TOKEN) == [401] * 5 + [200] * 2
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer", ""):
        assert with_client(visit, token=TOKEN, headers={"Authorization": wrong}) == [401] * 5 + [200] * 2
    assert with_client(visit, token=TOKEN, headers={"Authorization": f"Bearer {TOKEN}"}) == [200] * 7


def test_it_tells_its_rewards_and_what_they_did() -> None:
    async def visit(client: httpx.AsyncClient) -> tuple[Any, str]:
        body = {"samples": [{"completion": "a", "label": "fear", "group": "one"}] * 3}
        await client.post("/v1/score", json=body)
        await client.post("/v1/score", json={})
        return (await client.get("/v1/rewards")).json(), (await client.get("/metrics")).text

    rewards = (BuiltinRewardConfig(type="builtin", name="format_r1omni", weight=0.5), FAILING)
    listed, metrics = with_client(visit, rewards=rewards)
    assert [(r["name"], r["type"], r["weight"]) for r in listed["rewards"]] == [
        ("format_r1omni", "builtin", 0.5),
        ("failing", "python", 1.0),
    ]
    assert "R1-Omni" in listed["rewards"][0]["documentation"]
    lines = metrics.splitlines()
    assert 'omni_reward_samples_total{reward="format_r1omni"} 3.0' in lines
    assert 'omni_reward_errors_total{reward="failing"} 3.0' in lines
    assert 'omni_reward_requests_total{status="200"} 1.0' in lines
    assert 'omni_reward_requests_total{status="422"} 1.0' in lines
    assert 'omni_reward_seconds_count{reward="failing"} 1.0' in lines
    assert "omni_reward_samples_in_flight 0.0" in lines


def test_it_is_ready_once_its_rewards_are() -> None:
    async def run() -> list[int]:
        service = RewardService(RewardConfig(rewards=(FAILING,)))
        app = create_app(service, token=None, media_root=None, limits=RequestLimits())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://r") as client:
            before = (await client.get("/readyz")).status_code
            await service.start()
            after = (await client.get("/readyz")).status_code
        service.close()
        return [before, after]

    assert asyncio.run(run()) == [503, 200]


def test_the_documentation_names_every_field() -> None:
    schema = with_client(lambda client: client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ScoreBatch"}
    parts = schema["components"]["schemas"]
    assert parts["ScoreBatch"]["properties"]["samples"]["items"] == {"$ref": "#/components/schemas/WireSample"}
    assert all(part.get("description") for part in parts["WireSample"]["properties"].values())
    refs = [text.split('"')[0] for text in json.dumps(schema).split("#/components/schemas/")[1:]]
    assert set(refs) <= parts.keys()


# what a hostile or broken client may send: any JSON, and samples with anything in their fields
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "completion",
    "label",
    "labels",
    "label_distribution",
    "taxonomy",
    "token_ids",
    "duration_s",
    "group",
    "no",
)
BATCHES = st.fixed_dictionaries(
    {"samples": st.lists(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | st.text()), max_size=3) | ANY_JSON}
)


@given(st.binary() | ANY_JSON.map(lambda v: json.dumps(v).encode()) | BATCHES.map(lambda v: json.dumps(v).encode()))
def test_no_input_fails_the_service(body: bytes) -> None:
    response = with_client(
        lambda client: client.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
    )
    assert response.status_code in (200, 422)
    assert "Traceback" not in response.text
    if response.status_code == 422:
        refused(response)


@given(st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"]), st.text(max_size=20))
def test_no_path_or_method_fails_the_service(method: str, path: str) -> None:
    url = f"http://rewards/{quote(path)}"
    response = with_client(lambda client: client.request(method, url))
    assert response.status_code < 500


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_beyond_this_machine_it_serves_only_with_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_loopback(host)
    monkeypatch.delenv("A_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"^\$A_TOKEN must hold a token to serve on"):
        token_for(host, variable="A_TOKEN")
    monkeypatch.setenv("A_TOKEN", "short")
    with pytest.raises(ConfigError, match="must hold >= 16") as caught:
        token_for(host, variable="A_TOKEN")
    assert "short" not in str(caught.value)
    monkeypatch.setenv("A_TOKEN", TOKEN)
    assert token_for(host, variable="A_TOKEN") == TOKEN


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_on_this_machine_a_token_is_asked_for_where_one_is_set(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_TOKEN", raising=False)
    assert token_for(host, variable="A_TOKEN") is None
    monkeypatch.setenv("A_TOKEN", TOKEN)
    assert token_for(host, variable="A_TOKEN") == TOKEN


def command(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """`python -m reward.http`, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "reward.http", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def test_the_command_serves_and_another_run_can_be_rewarded_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_RLVR_REWARD_TOKEN", TOKEN)
    config = tmp_path / "my.yaml"
    config.write_text("reward: {rewards: [{type: builtin, name: accuracy_r1omni, weight: 2}]}\n")
    server = command("--config", str(config), "--port", "0")
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line.startswith("reward service on http://127.0.0.1:")
        entry = HttpRewardConfig(
            type="http", name="far", url=line.split()[-1], token_env="OMNI_RLVR_REWARD_TOKEN", weight=10.0
        )
        report = ask_far(entry)
        assert not isinstance(report.scores, Failure)
        assert [(s.total, s.breakdown["far"], s.facts) for s in report.scores] == [
            (20.0, 2.0, {"far/accuracy_r1omni": 1.0}),
            (0.0, 0.0, {"far/accuracy_r1omni": 0.0}),
        ]
        monkeypatch.setenv("OMNI_RLVR_REWARD_TOKEN", "another-token-of-letters")
        failed = ask_far(entry).scores
        assert isinstance(failed, Failure)
        assert "answered 401" in failed.detail
        assert "another-token" not in failed.detail
    finally:
        server.terminate()
        _, said = server.communicate(timeout=60)
    assert TOKEN not in said
    assert "Traceback" not in said


def ask_far(entry: HttpRewardConfig) -> GroupReport:
    """About a right completion and a wrong one."""

    return asyncio.run(asked_once(RewardService(RewardConfig(rewards=(entry,)))))


async def asked_once(service: RewardService) -> GroupReport:
    """About two completions; what the service has opened is closed."""
    try:
        return await service.score_requests([make_request("happy"), make_request("sad")])
    finally:
        service.close()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--host", "0.0.0.0"), "must hold a token"),
        (("--reward.rewards=[{type: builtin, name: mine}]",), "must be a built-in reward"),
        (("--reward.rewards=[{type: named_actor, name: mine, actor: a}]",), "must have Ray"),
        (("--config", "/no/such.yaml"), "readable file"),
        (
            (
                "--reward.rewards=[{type: python, name: mine, entrypoint: 'tests.support.reward.user:Unwilling'}]",
                "--port=0",
            ),
            "FileNotFoundError: no weights",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: tuple[str, ...], part: str) -> None:
    done = command(*arguments)
    _, said = done.communicate(timeout=120)
    assert done.returncode == 2, said
    assert part in said
    assert "Traceback" not in said


# -- asking another service -----------------------------------------------------------------------


def answered(handle: Callable[[httpx.Request], httpx.Response], **settings: Any) -> GroupReport:
    """What becomes of a group whose service answers so."""
    entry = HttpRewardConfig(
        **{"type": "http", "name": "far", "url": "https://far.example/base/", "max_retries": 0, **settings}
    )

    async def run() -> GroupReport:
        service = RewardService(RewardConfig(rewards=(entry,)))
        transport = httpx.MockTransport(handle)
        service._hosted[0] = PooledReward(entry, make_host=lambda: HttpHost(entry, transport=transport), size=1)
        return await asked_once(service)

    return asyncio.run(run())


def reply(*totals: object) -> httpx.Response:
    """With these totals."""
    return httpx.Response(200, json={"results": [{"total": total} for total in totals]})


def test_only_the_configured_address_is_asked_with_the_token_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_TOKEN", TOKEN)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    seen: list[httpx.Request] = []

    def redirecting(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(307, headers={"Location": "https://thief.example/v1/score"})

    report = answered(redirecting, token_env="A_TOKEN")
    assert isinstance(report.scores, Failure)
    assert "answered 307" in report.scores.detail
    assert TOKEN not in report.scores.detail
    assert [str(r.url) for r in seen] == ["https://far.example/base/v1/score"]
    assert seen[0].headers["authorization"] == f"Bearer {TOKEN}"
    sample = json.loads(seen[0].content)["samples"][0]
    assert sample["completion"] == "happy"
    # where files lie is nobody's matter
    assert "video_path" not in sample


@pytest.mark.parametrize(
    ("response", "reason", "part"),
    [
        (lambda: reply(1.0), "far-length", "got 1 for 2"),
        (lambda: reply(1.0, "x"), "far-error", "results.1.total"),
        (lambda: httpx.Response(200, text="[1, 2]"), "far-error", "must return results"),
        (lambda: httpx.Response(200, text='{"results": [{"total": NaN}, {"total": 1}]}'), "far-not-finite", "nan"),
        (lambda: httpx.Response(500, text="oh\nno"), "far-error", "answered 500: oh no"),
        (lambda: httpx.Response(429, json={"message": "busy"}), "far-error", "answered 429"),
        (
            lambda: httpx.Response(200, content=b" " * (http_host.MAX_REPLY_BYTES + 1)),
            "far-error",
            "answered with more",
        ),
    ],
)
def test_an_answer_that_is_none_fails_the_group(
    response: Callable[[], httpx.Response], reason: str, part: str
) -> None:
    report = answered(lambda _: response())
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == reason
    assert part in report.scores.detail


def test_a_service_that_does_not_apply_is_left_out_and_one_that_cannot_be_reached_is_asked_again() -> None:
    report = answered(lambda _: reply(None, 1.0))
    assert report.left_out == ("far",)
    asked: list[httpx.Request] = []

    def flaky(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) < 3:
            raise httpx.ConnectError("refused")
        return reply(1.0, 0.0)

    report = answered(flaky, max_retries=2)
    assert not isinstance(report.scores, Failure)
    assert [s.total for s in report.scores] == [1.0, 0.0]
    assert len(asked) == 3


def test_connections_are_closed_with_the_service_that_opened_them() -> None:
    closed: list[bool] = []

    class Transport(httpx.MockTransport):
        async def aclose(self) -> None:
            closed.append(True)

    entry = HttpRewardConfig(type="http", name="far", url="https://far.example")
    host = HttpHost(entry, transport=Transport(lambda _: reply(1.0)))

    async def run() -> None:
        await host.open()
        await host.ask([make_request("happy")])
        host.end()
        host.end()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    asyncio.run(run())
    assert closed == [True]


def test_who_is_told_to_come_again_does_and_it_is_no_attempt() -> None:
    asked: list[float] = []

    def busy(request: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        return reply(1.0, 0.0) if len(asked) > 1 else httpx.Response(429, headers={"Retry-After": "1"})

    report = answered(busy, max_retries=0)
    assert not isinstance(report.scores, Failure)
    assert asked[1] - asked[0] >= 1.0
    report = answered(lambda _: httpx.Response(429, headers={"Retry-After": "1"}), deadline_s=0.3)
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == "far-deadline"


@pytest.mark.parametrize(("status", "num_asked"), [(400, 1), (401, 1), (422, 1), (408, 3), (429, 3), (500, 3)])
def test_a_refusal_is_final_and_a_failure_is_not(status: int, num_asked: int) -> None:
    asked: list[httpx.Request] = []

    def refusing(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(status, text="no")

    report = answered(refusing, max_retries=2)
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == ("far-refused" if num_asked == 1 else "far-error")
    assert len(asked) == num_asked


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("https://host:99999", {}),
        ("https://host:port", {}),
        ("https://[host", {}),
        ("https://", {}),
        ("ftp://host", {}),
        ("https://me:sesame@host", {}),
        ("https://host/?key=sesame", {}),
        ("https://host#sesame", {}),
        ("http://host", {}),
        ("http://host/sesame", {}),
        ("http://host", {"allow_plain_http": True, "token_env": "A_TOKEN"}),
    ],
)
def test_an_address_that_cannot_be_or_tells_a_secret_is_refused(url: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(
            None, [f"--reward.rewards=[{json.dumps({'type': 'http', 'name': 'far', 'url': url} | settings)}]"]
        )
    assert "url must" in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_of_an_address_only_the_host_is_shown() -> None:
    report = answered(lambda _: httpx.Response(500), url="https://far.example/sesame")
    assert isinstance(report.scores, Failure)
    assert "https://far.example answered 500" in report.scores.detail
    assert "sesame" not in report.scores.detail


def test_a_service_that_hangs_fails_at_its_deadline() -> None:
    async def hanging(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(600)
        return reply()

    report = answered(hanging, deadline_s=0.2)  # pyright: ignore[reportArgumentType]
    assert isinstance(report.scores, Failure)
    assert report.scores.reason == "far-deadline"


def far(url: str) -> HttpRewardConfig:
    """Another service."""
    return HttpRewardConfig(type="http", name="far", url=url, max_retries=0)


def good(reply: Reply) -> None:
    """A result for one sample."""
    reply.send(body=b'{"results": [{"total": 1.0}]}')


def test_a_host_keeps_its_connection_and_closes_it_when_it_ends() -> None:
    async def run() -> None:
        host = HttpHost(far(server.url))
        await host.open()
        for _ in range(2):
            assert await host.ask([make_request("happy")])
        assert server.num_connections == 1
        assert not server.closed.acquire(blocking=False)
        host.end()
        host.end()
        assert await asyncio.to_thread(server.has_closed)
        with pytest.raises(HostLostError, match="the client is closed"):
            await host.ask([make_request("happy")])

    with http_server(good) as server:
        asyncio.run(run())


@pytest.mark.parametrize("closes", [True, False])
def test_no_connection_is_left_open_at_the_end_of_the_event_loop(closes: bool) -> None:
    async def run() -> GroupReport:
        service = RewardService(RewardConfig(rewards=(far(server.url),)))
        report = await service.score_requests([make_request("happy")])
        if closes:
            service.close()
        return report

    with http_server(good) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert not isinstance(asyncio.run(run()).scores, Failure)
        gc.collect()
    assert [w for w in warned if issubclass(w.category, ResourceWarning) and "transport" in str(w.message)] == []


def test_a_compressed_answer_fails_the_group_unread() -> None:
    async def run() -> GroupReport:
        return await RewardService(RewardConfig(rewards=(far(server.url),))).score_requests([make_request("happy")])

    body = gzip.compress(gzip.compress(bytes(2**26)))
    with http_server(lambda reply: reply.send(body=body, Content_Encoding="gzip, gzip")) as server:
        scores = asyncio.run(run()).scores
        assert server.headers["Accept-Encoding"] == "identity"
    assert isinstance(scores, Failure)
    assert scores.reason == "far-error"
    assert "answered with Content-Encoding 'gzip, gzip', which was not requested" in scores.detail


def test_a_token_that_a_service_repeats_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", TOKEN)
    error = {"reason": "x", "detail": TOKEN}
    for response in (
        httpx.Response(403, text=f"no such key: {TOKEN}"),
        httpx.Response(200, json={"results": [{"total": None, "error": error}] * 2}),
    ):
        scores = answered(lambda _, response=response: response, token_env="A_TOKEN").scores
        assert isinstance(scores, Failure)
        assert "[token]" in scores.detail
        assert TOKEN not in scores.detail
