"""The HTTP client against real servers: what leaves the machine, what comes back, and what is shown of it."""

import asyncio
import datetime
import gzip
import ipaddress
import json
import logging
import pickle
import re
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import ConfigError
from common.runtime import http_client
from common.runtime.http_client import HttpClient, HttpError, HttpReply, HttpReplyError, HttpTarget
from tests.support.http_server import HttpServer, Reply, http_server

TOKEN = "sk-Sesame+123/of=a.test"


def make_target(url: str, *, token_env: str | None = None, **settings: Any) -> HttpTarget:
    """With small limits."""
    defaults: dict[str, Any] = {"allow_plain_http": False, "max_reply_bytes": 1000}
    return HttpTarget(url=url, token_env=token_env, keys=("a.url", "a.token_env"), **(defaults | settings))


def posted(
    url: str, body: object = None, *, timeout_s: float | None = 20.0, token_env: str | None = None, **settings: Any
) -> HttpReply:
    """The reply to one request."""

    async def ask() -> HttpReply:
        async with aclosing(HttpClient(make_target(url, token_env=token_env, **settings))) as client:
            return await client.post("/ask", body, timeout_s=timeout_s)

    return asyncio.run(ask())


def told(error: BaseException) -> str:
    """Everything that a log or a traceback would show of an error."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a variable with a token."""
    monkeypatch.setenv("A_TOKEN", TOKEN)
    return "A_TOKEN"


# -- what leaves the machine ----------------------------------------------------------------------


def test_json_is_posted_below_the_address_with_the_token(token: str) -> None:
    with http_server(lambda reply: reply.send(201, b'{"a": 1}', Retry_After="7")) as server:
        reply = posted(server.url + "/base/", {"q": "é"}, token_env=token)
    assert (reply.status, reply.content, reply.retry_after) == (201, b'{"a": 1}', "7")
    ((path, headers, body),) = server.requests
    assert (path, json.loads(body)) == ("/base/ask", {"q": "é"})
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("url", "settings", "said"),
    [
        ("http://far.example/v1", {}, "a.url must be https to another machine, got 'http://far.example'"),
        ("http://127.0.0.1.far.example", {}, "a.url must be https to another machine"),
        ("http://10.0.0.1", {"token_env": "A_TOKEN"}, "a.url must be https to another machine"),
        (
            "http://far.example",
            {"token_env": "A_TOKEN", "allow_plain_http": True},
            "a.url must be https to another machine where there is a token",
        ),
        ("https://me:hunter2@far.example", {}, "a.url must hold no password, got one for 'far.example'"),
        ("http://me:hunter2@127.0.0.1:1", {}, "a.url must hold no password, got one for '127.0.0.1'"),
        ("https://far.example/?key=hunter2", {}, "a.url must end with its path"),
        ("ftp://far.example", {}, "a.url must be like https://host:port"),
    ],
)
def test_an_address_that_keeps_nothing_private_is_refused_before_anything_is_sent(
    token: str, url: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_target(url, **settings)
    assert said in str(caught.value)
    assert "hunter2" not in told(caught.value)
    assert TOKEN not in told(caught.value)


@pytest.mark.parametrize(
    "url", ["https://far.example", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"]
)
def test_a_token_goes_over_https_or_stays_on_this_machine(token: str, url: str) -> None:
    assert make_target(url, token_env=token).token == TOKEN
    assert make_target("http://far.example", allow_plain_http=True).token is None


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("", "nothing"),
        ("a\nb", "other characters"),
        ("schlüssel", "other characters"),
        (f"{TOKEN} ", "other characters"),
    ],
)
def test_a_token_that_cannot_stand_in_a_header_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str, got: str
) -> None:
    monkeypatch.setenv("A_TOKEN", value)
    with pytest.raises(ConfigError) as caught:
        make_target("https://far.example", token_env="A_TOKEN")
    assert f"a.token_env must name a variable that holds printable ASCII, got {got} in $A_TOKEN" in str(
        caught.value
    )
    assert not value or value not in told(caught.value)


def test_no_proxy_and_no_netrc_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    with http_server() as proxy, http_server() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.lower(), proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("NETRC", str(netrc))
        assert posted(server.url).status == 200
        assert proxy.requests == []
        assert server.headers["Authorization"] is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_reply_that_is_no_success_and_not_followed(token: str, status: int) -> None:
    with http_server() as other, http_server(lambda r: r.send(status, Location=other.url + "/x")) as server:
        reply = posted(server.url, token_env=token)
    assert (reply.status, len(server.requests)) == (status, 1)
    assert other.requests == []


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return path


@pytest.fixture
def fresh_authorities() -> Iterator[None]:
    """Read in the test, and again after it."""
    http_client._authorities.cache_clear()
    yield
    http_client._authorities.cache_clear()


@pytest.mark.usefixtures("fresh_authorities")
def test_a_certificate_is_verified_before_anything_is_sent(
    certificate: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_server(certificate=certificate) as server:
        with pytest.raises(HttpError, match="certificate verify failed"):
            posted(server.url, token_env=token)
        assert server.requests == []
        http_client._authorities.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert posted(server.url, token_env=token).status == 200


# -- what comes back ------------------------------------------------------------------------------


def bomb(*, layers: int) -> bytes:
    """64 MiB of zeros, packed so often."""
    body = bytes(2**26)
    for _ in range(layers):
        body = gzip.compress(body, 9)
    return body


@pytest.mark.parametrize("layers", [1, 2])
def test_a_compressed_reply_is_refused_unread(layers: int) -> None:
    body, encoding = bomb(layers=layers), ", ".join(["gzip"] * layers)
    with http_server(lambda reply: reply.send(body=body, Content_Encoding=encoding)) as server:
        tracemalloc.start()
        try:
            with pytest.raises(HttpReplyError, match=f"Content-Encoding '{encoding}', which was not requested"):
                posted(server.url, max_reply_bytes=2**30)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert server.headers["Accept-Encoding"] == "identity"
        assert server.has_closed()
    assert peak < 2**23


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_a_reply_that_says_that_it_is_not_compressed_is_read(encoding: str) -> None:
    with http_server(lambda reply: reply.send(body=b"ab", Content_Encoding=encoding)) as server:
        assert posted(server.url).content == b"ab"


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_reply_is_read_up_to_its_limit(is_chunked: bool) -> None:
    def endless(reply: Reply) -> None:
        reply.send_response(200)
        reply.send_header(*(("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", str(2**40))))
        reply.end_headers()
        while True:
            reply.wfile.write((b"4000\r\n" if is_chunked else b"") + bytes(0x4000) + b"\r\n" * is_chunked)

    with http_server(lambda reply: reply.send(body=bytes(1000))) as server:
        assert len(posted(server.url, max_reply_bytes=1000).content) == 1000
        with pytest.raises(HttpReplyError, match=r"^more than 999 bytes$"):
            posted(server.url, max_reply_bytes=999)
    with http_server(endless) as server:
        with pytest.raises(HttpReplyError, match=r"^more than 1000 bytes$"):
            posted(server.url)
        # the server cannot go on sending
        assert server.has_closed()


def slow(released: threading.Event, *, begins: bool) -> Callable[[Reply], None]:
    """A reply that never ends: of a byte now and then where it begins, of nothing otherwise."""

    def answer(reply: Reply) -> None:
        if begins:
            reply.send_response(200)
            reply.send_header("Content-Length", "100000")
            reply.end_headers()
        while not released.wait(0.02):
            if begins:
                reply.wfile.write(b" ")
        reply.close_connection = True

    return answer


@pytest.mark.parametrize("begins", [True, False])
def test_a_request_has_one_deadline_from_its_start_to_the_last_byte(begins: bool) -> None:
    released = threading.Event()
    with http_server(slow(released, begins=begins)) as server:
        try:
            with pytest.raises(HttpError, match=r"^no complete reply within 0.2 s$"):
                posted(server.url, timeout_s=0.2)
        finally:
            released.set()


def test_a_caller_may_cancel_instead() -> None:
    released = threading.Event()

    async def ask() -> None:
        async with aclosing(HttpClient(make_target(server.url))) as client, asyncio.timeout(0.2):
            await client.post("/ask", None, timeout_s=None)

    with http_server(slow(released, begins=True)) as server:
        try:
            with pytest.raises(TimeoutError):
                asyncio.run(ask())
            released.set()
            assert server.has_closed()
        finally:
            released.set()


def test_who_is_not_there_or_hangs_up_is_an_error() -> None:
    def hang_up(reply: Reply) -> None:
        reply.close_connection = True

    with http_server(hang_up) as server, pytest.raises(HttpError, match="RemoteProtocolError") as caught:
        posted(server.url)
    assert not isinstance(caught.value, HttpReplyError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(HttpError, match="ConnectError"):
        posted(server.url)


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "echo",
    [
        TOKEN,
        json.dumps({"error": f"no such key: {TOKEN}"}),
        TOKEN.replace("/", "\\/"),
        TOKEN.replace("+", "\\u002B").replace("=", "\\u003d"),
        f"{TOKEN} {TOKEN}{TOKEN}",
    ],
)
def test_a_token_that_a_reply_repeats_is_replaced(token: str, echo: str) -> None:
    with http_server(lambda reply: reply.send(401, echo.encode())) as server:
        reply = posted(server.url, token_env=token)
    assert "Sesame" not in f"{reply!r} {reply.excerpt} {reply.content!r}"
    assert "[token]" in reply.excerpt


def test_a_token_at_the_end_of_an_excerpt_is_not_shown_in_part(token: str) -> None:
    for length in (*range(270, 310), *range(1970, 2010)):
        text = b"x" * length if length < 1000 else b" x" * (length // 2)
        with_token = text + TOKEN.encode()
        client = HttpClient(make_target("https://far.example", token_env=token))
        reply = HttpReply(status=400, content=client._without_token(with_token), retry_after="")
        assert "sk-" not in reply.excerpt


def test_an_excerpt_is_one_short_line() -> None:
    def excerpt(content: bytes) -> str:
        return HttpReply(status=400, content=content, retry_after="").excerpt

    assert excerpt(b" oh\n\tno \xff") == "oh no \ufffd"
    assert excerpt(b"") == "nothing"
    assert len(excerpt(b"x" * 5000)) == 300


def test_no_error_of_httpx_shows_the_token(token: str) -> None:
    def repeat(reply: Reply) -> None:
        reply.wfile.write(f"HTTP/1.1 no {reply.headers['Authorization']}\r\n\r\n".encode())
        reply.close_connection = True

    with http_server(repeat) as server, pytest.raises(HttpError) as caught:
        posted(server.url, token_env=token)
    assert re.search(r"^RemoteProtocolError illegal status line.*no Bearer \[token\]", str(caught.value))
    assert "Sesame" not in told(caught.value)


def test_nothing_that_can_be_printed_holds_the_token(token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with http_server(lambda reply: reply.send(500)) as server:
        posted(server.url, token_env=token)
        target = make_target(server.url + "/secret-path", token_env=token)
    client = HttpClient(target)
    assert TOKEN not in f"{target!r} {client!r} {vars(client)!r} {client._client.headers!r}"
    assert target.shown == server.url
    assert TOKEN not in caplog.text


# -- connections ----------------------------------------------------------------------------------


def test_a_connection_is_kept_until_the_client_is_closed() -> None:
    async def ask(server: HttpServer) -> None:
        client = HttpClient(make_target(server.url))
        for _ in range(3):
            await client.post("/ask", None, timeout_s=20.0)
        assert server.num_connections == 1
        assert not server.closed.acquire(blocking=False)
        await client.aclose()
        assert await asyncio.to_thread(server.has_closed)
        with pytest.raises(HttpError, match="the client is closed"):
            await client.post("/ask", None, timeout_s=20.0)
        await client.aclose()

    with http_server() as server:
        asyncio.run(ask(server))


def test_a_request_in_flight_fails_when_its_client_is_closed() -> None:
    released = threading.Event()

    async def ask() -> None:
        client = HttpClient(make_target(server.url))
        asking = asyncio.create_task(client.post("/ask", None, timeout_s=20.0))
        assert await asyncio.to_thread(server.asked.wait, 10)
        await client.aclose()
        with pytest.raises(HttpError):
            await asking

    with http_server(slow(released, begins=True)) as server:
        try:
            asyncio.run(ask())
        finally:
            released.set()


def test_connections_are_as_many_as_allowed() -> None:
    async def ask(server: HttpServer) -> None:
        async with aclosing(HttpClient(make_target(server.url), max_connections=2)) as client:
            await asyncio.gather(*(client.post("/ask", None, timeout_s=20.0) for _ in range(8)))

    with http_server() as server:
        asyncio.run(ask(server))
        assert server.num_connections <= 2
        assert len(server.requests) == 8


def test_the_product_has_one_http_client() -> None:
    root = Path(http_client.__file__).parents[2]
    users = {
        path.relative_to(root).as_posix()
        for package in ("common", "learner", "rollout", "reward", "deploy")
        for path in (root / package).rglob("*.py")
        if any(f"{name}(" in path.read_text() for name in ("httpx.AsyncClient", "httpx.Client", "urlopen"))
        or any(f"httpx.{verb}(" in path.read_text() for verb in ("get", "post", "stream", "request"))
    }
    assert users == {"common/runtime/http_client.py"}
    assert issubclass(httpx.TransportError, httpx.HTTPError)
