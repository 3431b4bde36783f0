"""A model at an OpenAI-compatible endpoint that receives clips: frames as images, sound as wav.

POST `<endpoint>/chat/completions` with `image_url` and `input_audio` parts, as OpenAI's API documents them.
"""

import asyncio
import base64
import io
import json
from typing import Any, cast

from common.errors import ConfigError, OmniError
from common.media.decode import SAMPLE_RATE
from common.runtime.http_client import HttpClient, HttpError, HttpReply, HttpReplyError, HttpTarget
from common.types import DecodedClip

RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses of temporary failures."""
MAX_TRIES, FIRST_WAIT_S = 5, 1.0
MAX_REPLY_BYTES = 2**20


class EndpointError(OmniError):
    """No attempt had a usable answer."""


class Endpoint:
    def __init__(
        self,
        url: str,
        *,
        model: str,
        token_env: str | None,
        allow_plain_http: bool = False,
        timeout_s: float = 120.0,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        """Opens no connection; raises `ConfigError` for an unusable address or token."""
        self._target = HttpTarget(
            url=url,
            token_env=token_env,
            keys=("--endpoint", "--token-env"),
            allow_plain_http=allow_plain_http,
            max_reply_bytes=MAX_REPLY_BYTES,
        )
        self._client = HttpClient(self._target)
        self._model, self._timeout_s, self._first_wait_s = model, timeout_s, first_wait_s

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, clip: DecodedClip, question: str, *, temperature: float, max_tokens: int, seed: int) -> str:
        """Returns one answer.

        Raises:
            ConfigError: the endpoint refuses the request, because token, address or model is wrong.
            EndpointError: all attempts fail, or the answer is malformed.
        """
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": [*clip_parts(clip), {"type": "text", "text": question}]}],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        shown, fault = self._target.shown, ""
        for attempt in range(MAX_TRIES):
            if attempt:
                await asyncio.sleep(self._first_wait_s * 2 ** (attempt - 1))
            try:
                reply = await self._client.post("/chat/completions", body, timeout_s=self._timeout_s)
            except HttpReplyError as error:
                raise EndpointError(f"{shown} must answer with choices, got {error}") from error
            except HttpError as error:
                fault = str(error)
                continue
            if 200 <= reply.status < 300:
                return self._text(reply)
            fault = f"{reply.status}: {reply.excerpt}"
            if reply.status not in RETRIED:
                raise ConfigError(f"--endpoint must accept the request, got {fault} from {shown}; see --help")
        raise EndpointError(f"{shown} must answer, got {fault} {MAX_TRIES} times")

    def _text(self, reply: HttpReply) -> str:
        try:
            text = json.loads(reply.content)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise EndpointError(f"{self._target.shown} must answer with choices, got {reply.excerpt!r}") from error
        return text if isinstance(text, str) else ""


def clip_parts(clip: DecodedClip) -> list[dict[str, Any]]:
    """The content parts of a clip: a JPEG per frame, and a 16-bit wav at 16 kHz."""
    parts: list[dict[str, Any]] = []
    for frame in clip.frames if clip.frames is not None else ():
        url = f"data:image/jpeg;base64,{_jpeg(frame)}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    if clip.waveform is not None:
        parts.append({"type": "input_audio", "input_audio": {"data": _wav(clip.waveform), "format": "wav"}})
    return parts


def _jpeg(frame: Any) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="JPEG", quality=90)
    return base64.b64encode(stream.getvalue()).decode()


def _wav(waveform: Any) -> str:
    import soundfile

    stream = io.BytesIO()
    soundfile.write(cast(Any, stream), waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(stream.getvalue()).decode()
