"""Addresses of services: the form that a configuration allows, and the part that messages show."""

from urllib.parse import SplitResult, urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def checked_url(url: object, *, key: str) -> str:
    """Checks an address and refuses one with a secret, as a configuration is printed and saved with its run.

    Raises:
        ValueError: the message repeats only scheme and host.
    """
    text = url if isinstance(url, str) else ""
    try:
        # which minds brackets, where httpx minds all else
        parts = urlsplit(text)
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    host = parts.hostname
    if not host or parts.scheme not in ("http", "https") or not _can_be_asked(text):
        shown = repr(f"{parts.scheme}://{host}") if host else "something else"
        raise ValueError(f"{key} must be like https://host:port, got {shown}; correct it")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{key} must hold no password, got one for {host!r}; give token_env")
    if "?" in text or "#" in text:
        raise ValueError(f"{key} must end with its path, got a query for {host!r}; give token_env")
    return text.rstrip("/")


def _can_be_asked(url: str) -> bool:
    import httpx

    try:
        parts = httpx.URL(url)
        return bool(parts.host) and 0 < (parts.port or 1) <= 65535
    except (httpx.InvalidURL, ValueError):
        return False


def shown_url(url: str) -> str:
    """Scheme, host and port: a path may be a secret."""
    import httpx

    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode()}"


def check_privacy(url: str, *, key: str, has_token: bool, allow_plain_http: bool) -> None:
    """Refuses plain HTTP to another machine, unless allowed, for texts about people; raises `ValueError`."""
    import httpx

    parts = httpx.URL(url)
    if parts.scheme == "https" or parts.host in LOOPBACK:
        return
    if not allow_plain_http:
        raise ValueError(
            f"{key} must be https to another machine, got {shown_url(url)!r}; set allow_plain_http where the "
            "network is trusted"
        )
    if has_token:
        raise ValueError(
            f"{key} must be https to another machine where there is a token, got {shown_url(url)!r}; use https, "
            "or leave out the token (token_env)"
        )
