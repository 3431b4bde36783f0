"""The process of `python -m reward.http`: its memory under hostile clients, and its end."""

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.unit.common.runtime.test_parent_watch import is_alive, wait_for

TOKEN = "a-token-of-enough-letters"
SHOWN = f"Authorization: Bearer {TOKEN}"
MIB, GIB = 2**20, 2**30
TIMEOUT_S = 120.0
CHUNK = b"10000\r\n" + b"a" * 2**16 + b"\r\n"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that serves."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    def begin(self, *headers: str) -> socket.socket:
        """Sends the headers of a score request, and nothing of its body."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        lines = ("POST /v1/score HTTP/1.1", "Host: rewards", "Content-Type: application/json", *headers)
        connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        return connection

    def peak(self) -> "Peak":
        """Measures its memory."""
        return Peak(self.process.pid)


class Peak:
    """The largest growth of a process's resident memory since this was made."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB$", (self._folder / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def num_bytes(self) -> int:
        """In bytes."""
        return self._read("VmHWM") - self._before


@contextmanager
def serving(*arguments: str, **env: str) -> Iterator[Server]:
    """A service, until it is no longer needed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reward.http", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    try:
        assert process.stdout is not None
        yield Server(process=process, port=int(process.stdout.readline().rsplit(":", 1)[1]))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One that asks for a token."""
    with serving(OMNI_RLVR_REWARD_TOKEN=TOKEN) as started:
        yield started


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of the response."""
    response = http.client.HTTPResponse(connection, method="POST")
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, json.loads(response.read())


def num_taken(connection: socket.socket, part: bytes) -> int:
    """Bytes that are sent until the server closes the connection, of one GiB."""
    num_sent = 0
    with suppress(ConnectionError):
        while num_sent < GIB:
            connection.sendall(part)
            num_sent += len(part)
    return num_sent


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((f"Content-Length: {GIB}",), 401),
        (("Transfer-Encoding: chunked",), 401),
        ((SHOWN, f"Content-Length: {GIB}"), 413),
    ],
)
def test_a_gib_is_refused_before_it_is_sent_and_is_neither_read_nor_kept(
    server: Server, headers: tuple[str, ...], status: int
) -> None:
    peak = server.peak()
    with server.begin(*headers) as connection:
        found, sent, body = answer_on(connection)
        assert (found, sent["connection"], body.keys()) == (status, "close", {"field", "message"})
        # what is dropped, and what buffers of the kernel take
        assert num_taken(connection, CHUNK) < 64 * MIB
    assert peak.num_bytes < 32 * MIB


def test_a_body_without_a_length_is_cut_at_the_bound(server: Server) -> None:
    peak = server.peak()
    with server.begin(SHOWN, "Transfer-Encoding: chunked") as connection:
        for _ in range(9 * 16):
            connection.sendall(CHUNK)
        status, _, body = answer_on(connection)
        assert (status, body["field"]) == (413, "body")
        assert num_taken(connection, CHUNK) < 64 * MIB
    assert peak.num_bytes < 48 * MIB


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 413)])
def test_a_client_that_sends_its_whole_body_first_can_read_why_it_is_refused(
    server: Server, headers: dict[str, str], status: int
) -> None:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
            return await client.post(
                "/v1/score", content=b"a" * 12 * MIB, headers={**headers, "Content-Type": "application/json"}
            )

    assert asyncio.run(post()).status_code == status


def filled(start: bytes, unit: bytes, end: bytes) -> bytes:
    """Nearly eight MiB."""
    return start + unit * ((8 * MIB - 200) // len(unit)) + end


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (filled(b'{"samples": [', b"{},", b"{}]}"), "samples.0.completion"),
        (filled(b'{"samples": [{"completion": "a", "token_ids": [', b"-1,", b"1]}]}"), "samples.0.token_ids.0"),
        (filled(b'{"samples": [{"completion": "a", "labels": [', b"1,", b"1]}]}"), "samples.0.labels.0"),
        (
            json.dumps(
                {"samples": [{"completion": "a", "label_distribution": dict.fromkeys(map(str, range(450_000)))}]}
            ).encode(),
            "samples.0.label_distribution.0",
        ),
        (
            json.dumps({"samples": [{"completion": "a", **dict.fromkeys(map(str, range(450_000)), 0)}]}).encode(),
            "samples.0.0",
        ),
        (filled(b"", b"[", b""), "body"),
        (filled(b'{"samples": ', b"9", b"}"), "body"),
    ],
    ids=["samples", "token_ids", "labels", "label_distribution", "unknown fields", "depth", "digits"],
)
def test_a_body_of_a_million_faults_costs_little_more_than_its_json(
    server: Server, body: bytes, field: str
) -> None:
    peak = server.peak()
    with server.begin(SHOWN, f"Content-Length: {len(body)}") as connection:
        connection.sendall(body)
        status, _, refusal = answer_on(connection)
    assert (status, refusal["field"]) == (422, field)
    assert peak.num_bytes < 400 * MIB


@pytest.mark.parametrize(
    ("number", "label"), [(signal.SIGTERM, "fear"), (signal.SIGTERM, "happy"), (signal.SIGINT, "happy")]
)
def test_a_signal_ends_the_service_its_workers_and_their_children(
    tmp_path: Path, number: signal.Signals, label: str
) -> None:
    entry = "{type: python, name: parental, entrypoint: 'tests.support.reward.user:parental', deadline_s: 600}"
    pids, replies = tmp_path / "pids", list[int]()

    def ask(url: str) -> None:
        body = {"samples": [{"completion": str(pids), "label": label}]}
        with suppress(httpx.HTTPError):
            replies.append(httpx.post(f"{url}/v1/score", json=body, timeout=TIMEOUT_S).status_code)

    with serving(f"--reward.rewards=[{entry}]") as server:
        asking = threading.Thread(target=ask, args=(server.url,))
        asking.start()
        assert wait_for(pids.exists, seconds=TIMEOUT_S)
        children = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
        try:
            server.process.send_signal(number)
            assert server.process.wait(timeout=TIMEOUT_S) == 0
            asking.join(timeout=TIMEOUT_S)
            # a request that ends in time is answered
            assert label == "fear" or replies == [200]
            assert wait_for(lambda: not any(map(is_alive, children)), seconds=TIMEOUT_S)
        finally:
            for child in filter(is_alive, children):
                child.kill()
