"""The reward service over HTTP.

    python -m reward.http --config my.yaml [--host 127.0.0.1] [--port 8500] [--reward.KEY VALUE ...]

`POST /v1/score` scores a batch and returns results in the same order. `/docs` describes it, with `GET /v1/rewards`,
`/healthz`, `/readyz` and `/metrics`. Clients on other machines need a bearer token, which the service reads from
the environment. SIGTERM and Ctrl-C end the service and its processes; requests in progress get a few seconds.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from common.config.load import load_config
from common.errors import ConfigError, RewardError
from common.runtime.command import command
from reward.service import RewardService
from reward.validation import check_rewards
from reward.web.app import create_app
from reward.web.gates import RequestLimits

TOKEN_VARIABLE = "OMNI_RLVR_REWARD_TOKEN"
MIN_TOKEN = 16
GRACE_S = 5
"""Seconds in which requests in progress may end when the service is stopped."""


def is_loopback(host: str) -> bool:
    """True if only this machine can reach the address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def token_for(host: str, *, variable: str) -> str | None:
    """The token that clients must send; None if none is set and none is needed.

    Raises:
        ConfigError: the address is public and no token is set, or the token is too weak.
    """
    token = os.environ.get(variable, "")
    if not token:
        if not is_loopback(host):
            raise ConfigError(
                f"${variable} must hold a token to serve on {host}, got nothing; set it, or bind to 127.0.0.1"
            )
        return None
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"${variable} must hold >= {MIN_TOKEN} printable ASCII characters and no space, got others; set another"
        )
    return token


async def serve(
    service: RewardService, *, host: str, port: int, token: str | None, media_root: Path | None
) -> None:
    """Serves until SIGTERM or SIGINT; ready when every reward is. Call it with `asyncio.run`.

    Raises:
        ConfigError: a reward cannot be loaded.
        RewardError: a reward does not start, or the address cannot be bound.
    """
    # uvicorn shuts down at either signal and raises it again: SIGTERM then cancels this coroutine, as SIGINT does
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    app = create_app(service, token=token, media_root=media_root, limits=RequestLimits())
    config = uvicorn.Config(app, host, port, log_level="warning", access_log=False, server_header=False)
    config.timeout_graceful_shutdown = GRACE_S
    server = AnnouncedServer(config)
    serving = asyncio.create_task(_serve(server))
    starting = asyncio.create_task(service.start())
    try:
        await asyncio.wait((serving, starting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        await serving
        if not server.started:
            raise RewardError(f"the reward service must be able to bind {host}:{port}, and was not")
    finally:
        server.should_exit = True
        starting.cancel()
        await asyncio.gather(serving, starting, return_exceptions=True)
        service.close()


class AnnouncedServer(uvicorn.Server):
    """Prints its address when it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"reward service on http://{shown}:{port}", flush=True)


async def _serve(server: uvicorn.Server) -> None:
    # the address cannot be bound
    with contextlib.suppress(SystemExit):
        await server.serve()


@command
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reward.http",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="a YAML file with a section `reward`, such as a run's; else the defaults")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on")
    parser.add_argument("--port", type=int, default=8500, help="port to serve on; 0 for any that is free")
    parser.add_argument("--token-env", default=TOKEN_VARIABLE, help="environment variable that holds the token")
    parser.add_argument("--media-root", type=Path, help="folder that samples may name files of; else none")
    known, overrides = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # httpx logs every request
    logging.getLogger("httpx").setLevel(logging.WARNING)
    token = token_for(known.host, variable=known.token_env)
    config = load_config(known.config, overrides).reward
    check_rewards(config)
    service = RewardService(config)
    # Ctrl-C is the normal end of a service
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(service, host=known.host, port=known.port, token=token, media_root=known.media_root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
