"""An HTTP server on a port of its own, whose replies a test writes."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = Callable[["Reply"], None]


class Reply(BaseHTTPRequestHandler):
    """The reply to one request, to be sent by a test."""

    protocol_version = "HTTP/1.1"

    def send(self, status: int = 200, body: bytes = b"{}", **headers: str) -> None:
        """A whole reply; `_` in a header's name is `-`."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@dataclass
class HttpServer:
    """What was asked of a server."""

    url: str
    requests: list[tuple[str, Message, bytes]] = field(default_factory=list[tuple[str, Message, bytes]])
    """Path, headers and body."""
    asked: threading.Event = field(default_factory=threading.Event)
    """Set once there is a request."""
    num_connections: int = 0
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released for each connection that has ended."""
    failures: list[BaseException] = field(default_factory=list[BaseException])
    """Of sending."""

    def has_closed(self) -> bool:
        """Waits for the end of one more connection."""
        return self.closed.acquire(timeout=10)

    @property
    def headers(self) -> Message:
        """Of the only request."""
        ((_, headers, _),) = self.requests
        return headers


@contextmanager
def http_server(answer: Answer = Reply.send, *, certificate: Path | None = None) -> Iterator[HttpServer]:
    """Serves until it is left.

    Args:
        answer: sends the reply to each request.
        certificate: PEM with its key, to serve over TLS.
    """

    class Handler(Reply):
        def setup(self) -> None:
            server.num_connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.requests.append((self.path, self.headers, body))
            server.asked.set()
            try:
                answer(self)
            except OSError as error:
                server.failures.append(error)
                self.close_connection = True

        def do_GET(self) -> None:
            self.do_POST()

        def do_CONNECT(self) -> None:
            self.do_POST()

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            server.closed.release()

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "http" if certificate is None else "https"
    server = HttpServer(url=f"{scheme}://127.0.0.1:{listening.server_port}")
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
