"""The HTTP client of the judge, of rewards over HTTP, and of the endpoint of `make-cold-start`.

It posts JSON to one address, by https, or by http to this machine. Http to another machine must be allowed, and
never carries a token. The client uses no proxy and no .netrc, and follows no redirect. Replies are bounded and
uncompressed; a token that the server repeats is removed.
"""

import asyncio
import os
import re
import ssl
from dataclasses import dataclass, field
from functools import cache

import httpx

from common.config.address import check_privacy, checked_url, shown_url
from common.errors import ConfigError, OmniError


class HttpError(OmniError):
    """No complete reply arrived; the message names the cause, and never the token."""


class HttpReplyError(HttpError):
    """A reply that is too long or compressed: another attempt would get the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpTarget:
    """An address and its token.

    Raises:
        ConfigError: the address is invalid, has a password or would expose the texts, or the token is missing or
            invalid in a header.
    """

    url: str
    token_env: str | None
    """Environment variable of the bearer token; None without a token."""
    keys: tuple[str, str]
    """Names of `url` and of `token_env`, for messages."""
    allow_plain_http: bool
    """True if http to another machine is allowed, without a token."""
    max_reply_bytes: int
    token: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            url = checked_url(self.url, key=self.keys[0])
            has_token = self.token_env is not None
            check_privacy(url, key=self.keys[0], has_token=has_token, allow_plain_http=self.allow_plain_http)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "token", None if self.token_env is None else self._token(self.token_env))

    def _token(self, name: str) -> str:
        token = os.environ.get(name, "")
        # httpx logs an invalid header and repeats it in its error
        if not token or not (token.isascii() and token.isprintable() and token == token.strip()):
            got = "other characters" if token else "nothing"
            raise ConfigError(
                f"{self.keys[1]} must name a variable that holds printable ASCII, got {got} in ${name}; set it "
                "where the run is started, without blanks around it"
            )
        return token

    @property
    def shown(self) -> str:
        return shown_url(self.url)


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpReply:
    """A complete reply, of any status, redirects included."""

    status: int
    content: bytes
    """The text with `[token]` in place of the token."""
    retry_after: str
    """The header; empty without one."""

    @property
    def excerpt(self) -> str:
        """The beginning of the content in one line, for messages."""
        return " ".join(self.content[:2000].decode(errors="replace").split())[:300] or "nothing"


class HttpClient:
    """Connections to one target, of one event loop."""

    def __init__(
        self,
        target: HttpTarget,
        *,
        max_connections: int | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target = target
        self._echo = None if target.token is None else _echo_of(target.token)
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"}
            | ({} if target.token is None else {"Authorization": f"Bearer {target.token}"}),
            # `post` has its own deadline
            timeout=None,
            follow_redirects=False,
            trust_env=False,
            verify=_authorities(),
            limits=httpx.Limits(max_connections=max_connections),
            transport=transport,
        )

    async def aclose(self) -> None:
        """Closes every connection; requests in flight fail."""
        await self._client.aclose()

    async def post(self, path: str, body: object, *, timeout_s: float | None) -> HttpReply:
        """Sends JSON to a path, with a leading slash, below the target's address.

        `timeout_s` is from the start of the request to the last byte of the reply; None if the caller cancels.

        Raises:
            HttpReplyError: the reply is compressed, or longer than the target allows.
            HttpError: no complete reply arrived in time.
        """
        if self._client.is_closed:
            raise HttpError("the client is closed")
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream("POST", self._target.url + path, json=body) as reply,
            ):
                content = await self._read(reply)
        except TimeoutError:
            raise HttpError(f"no complete reply within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            text = f"{type(error).__name__} {error}".strip().encode(errors="replace")
            # without its cause, which contains the request and thus the token
            raise HttpError(self._without_token(text).decode()) from None
        return HttpReply(
            status=reply.status_code,
            content=self._without_token(content),
            retry_after=reply.headers.get("Retry-After", ""),
        )

    async def _read(self, reply: httpx.Response) -> bytes:
        encoding = reply.headers.get("Content-Encoding", "identity")
        # a small compressed reply may unpack to any length
        if encoding.lower() != "identity":
            raise HttpReplyError(f"Content-Encoding {encoding[:50]!r}, which was not requested")
        content = bytearray()
        async for part in reply.aiter_bytes():
            content += part
            if len(content) > self._target.max_reply_bytes:
                raise HttpReplyError(f"more than {self._target.max_reply_bytes} bytes")
        return bytes(content)

    def _without_token(self, content: bytes) -> bytes:
        return content if self._echo is None else self._echo.sub(b"[token]", content)


def _echo_of(token: str) -> re.Pattern[bytes]:
    """The token as sent, or with characters escaped as in JSON (`\\/`, `\\u002b`)."""
    return re.compile("".join(rf"(?:\\?{re.escape(c)}|\\u00(?i:{ord(c):02x}))" for c in token).encode())


@cache
def _authorities() -> ssl.SSLContext:
    # read once: it takes tens of milliseconds
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context
