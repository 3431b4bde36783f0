"""`python -m common.datasets make-cold-start`: from reasons and from a model, with provenance."""

import asyncio
import base64
import gzip
import io
import json
import shlex
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common.datasets.cold_start.endpoint import MAX_REPLY_BYTES, Endpoint, EndpointError, clip_parts
from common.datasets.cold_start.rationale import fault_of
from common.datasets.command import main
from common.datasets.corpora.r1_omni import load_r1_omni
from common.errors import ConfigError
from common.types import DecodedClip
from tests.support.http_server import Reply, http_server
from tests.support.media.corpora import put_dfew, put_ovmerd

GOOD = "<think>His mouth turns up and his voice is bright: he is happy.</think>\n<answer>happy</answer>"

# -- what is fit to learn from --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "fault"),
    [
        (GOOD, None),
        ("<think>She is not sad, she beams with joy.</think><answer>Happiness</answer>", None),
        ("<think>At first he is angry. Then he laughs and is happy.</think><answer>happy</answer>", None),
        ("He is happy.", "format"),
        ("<think> </think><answer>happy</answer>", "format"),
        ("<think>happy</think><answer>happy</answer><answer>sad</answer>", "format"),
        ("<think>a<think>happy</think></think><answer>happy</answer>", "format"),
        ("Well: <think>happy</think><answer>happy</answer>", "format"),
        ("<think>He is happy.</think><answer>sad</answer>", "answer"),
        ("<think>He is happy.</think><answer>happy or sad</answer>", "answer"),
        ("<think>He is happy.</think><answer>something</answer>", "answer"),
        ("<think>His mouth turns up.</think><answer>happy</answer>", "unmentioned"),
        ("<think>He is not happy at all.</think><answer>happy</answer>", "unmentioned"),
        ("<think>He looks happy. But his voice shakes: he is sad.</think><answer>happy</answer>", "contrary"),
    ],
)
def test_a_verdict_by_hand(completion: str, fault: str | None) -> None:
    assert fault_of(completion, labels=("happy",), taxonomy="dfew") == fault


@pytest.mark.parametrize("piece", ["<think>", "<think></think>", "<answer>", "</think><answer>", "<think>.", "a "])
def test_a_verdict_on_a_million_characters_takes_one_pass(piece: str) -> None:
    # a pass that is not linear takes hours: the time-out of the suite ends it
    assert fault_of(piece * (1_000_000 // len(piece)), labels=("happy",), taxonomy="dfew") == "format"


def test_any_label_of_a_clip_is_right() -> None:
    assert fault_of(GOOD, labels=("surprise", "happy"), taxonomy="dfew") is None


# -- from reasons ---------------------------------------------------------------------------------


def test_reasons_become_r1_omnis_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = put_ovmerd(tmp_path / "mer", 5), tmp_path / "cold.json"
    args = ("--format", "emer", "--root", str(root), "--taxonomy", "r1_omni", "--out", str(out))
    assert main(["make-cold-start", *args, "--count", "5"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert (summary["written"], summary["labels"]) == (5, {"anxious": 5})
    folder, command = shown.err.splitlines()
    assert folder == f"folder  {tmp_path}"
    assert command.startswith("next    python -m common.datasets inspect ")
    # the files are no media, and their faults are for another test
    assert main([*shlex.split(command)[4:], "--check-media", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"total": 5, "all": {"anxious": 5}}
    records = load_r1_omni(out, media_root=None, question=None, split="cold_start")
    assert len(records) == 5
    by_id = {r.prompt_id: r for r in records}
    first = by_id["mer/video/sample_00000000.mp4"]
    assert first.response == "<think>He frowns.</think>\n<answer>anxious</answer>"
    assert first.clip.audio_path == str(root / "audio" / "sample_00000000.wav")
    assert Path(str(first.clip.video_path)).is_file()
    assert by_id["mer/video/sample_00000001.mp4"].clip.audio_path == str(root / "video" / "sample_00000001.mp4")
    lines = [json.loads(line) for line in (tmp_path / "cold.provenance.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == [r.prompt_id for r in records]
    assert lines[0] == {
        "video": records[0].prompt_id,
        "dataset": "ovmerd",
        "clip": Path(records[0].prompt_id).stem,
        "label": "anxious",
        "labels": [],
        "kind": "reasons",
        "seed": 0,
    }


def test_the_draw_is_seeded_and_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_ovmerd(tmp_path / "mer", 12)

    def chosen(count: int, seed: int) -> set[str]:
        out = tmp_path / "cold.json"
        args = (
            "--format",
            "emer",
            "--root",
            str(root),
            "--out",
            str(out),
            "--count",
            str(count),
            "--seed",
            str(seed),
        )
        assert main(["make-cold-start", *args]) == 0
        capsys.readouterr()
        return {item["video"] for item in json.loads(out.read_text())}

    assert chosen(4, 0) == chosen(4, 0)
    assert chosen(4, 0) < chosen(6, 0)
    assert chosen(4, 0) != chosen(4, 1)


def mistake(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a mistake."""
    assert main(["make-cold-start", *argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    return output.err


def test_bad_usage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_ovmerd(tmp_path / "mer", 2)
    source = ("--format", "emer", "--root", str(root))
    out = ("--out", str(tmp_path / "cold.json"))
    # the paper's number by default
    assert "--count must be <= the 2 of 2 clips that have reasons, got 232" in mistake(capsys, *source, *out)
    assert "--out must be a .json file" in mistake(capsys, *source, "--out", str(tmp_path / "a" / "b.json"))
    assert "--out" in mistake(capsys, *source)
    assert "must be >= 1" in mistake(capsys, *source, *out, "--attempts", "0")
    assert "--from model must come with --endpoint and --model" in mistake(capsys, *source, *out, "--from", "model")
    assert "--config must be left out" in mistake(capsys, "--config", "a.yaml", *out)
    assert not (tmp_path / "cold.json").exists()


# -- from a model ---------------------------------------------------------------------------------


class Model:
    """An OpenAI-compatible server: answers by a function of the request's number."""

    def __init__(self, answer: Callable[[int], tuple[int, Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append({"path": self.path, **body})
                    outer.tokens.append(self.headers["Authorization"])
                    status, content = answer(len(outer.requests) - 1)
                text = json.dumps(
                    {"choices": [{"message": {"content": content}}]} if isinstance(content, str) else content
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int], tuple[int, Any]]], Model]]:
    """Starts models, and ends them."""
    models: list[Model] = []

    def start(answer: Callable[[int], tuple[int, Any]]) -> Model:
        models.append(Model(answer))
        return models[-1]

    yield start
    for model in models:
        model.close()


Serve = Callable[[Callable[[int], tuple[int, Any]]], Model]


def run(tmp_path: Path, model: Model, *more: str) -> int:
    """Over a DFEW of four happy clips, one after the other."""
    root = tmp_path / "DFEW"
    if not root.exists():
        put_dfew(root, train=dict.fromkeys(range(1, 5), 1), test={})
    args = ("--format", "dfew", "--root", str(root), "--taxonomy", "dfew", "--out", str(tmp_path / "cold.json"))
    options = ("--from", "model", "--endpoint", model.url, "--model", "m", "--parallel", "1", *more)
    return main(["make-cold-start", *args, *options])


def summary_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What was printed."""
    return json.loads(capsys.readouterr().out)


def test_answers_are_kept_that_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    answers = ["He is happy.", "<think>x</think><answer>happy</answer>", GOOD, GOOD]
    model = serve(lambda n: (200, answers[n]))
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert run(tmp_path, model, "--count", "2", "--attempts", "3", "--token-env", "MY_TOKEN") == 0
    summary = summary_of(capsys)
    assert summary["verdicts"] == {"format": 1, "unmentioned": 1, "accepted": 2}
    assert model.tokens == ["Bearer secret"] * 4
    assert [r["seed"] for r in model.requests] == [0, 1, 2, 0]
    records = load_r1_omni(tmp_path / "cold.json", media_root=None, question=None, split="cold_start")
    assert [(r.response, r.label) for r in records] == [(GOOD, "happy")] * 2
    lines = [json.loads(line) for line in (tmp_path / "cold.provenance.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["model"], line["attempt"]) for line in lines] == [
        ("rejection", "m", 3),
        ("rejection", "m", 1),
    ]
    assert "secret" not in "".join(p.read_text() for p in tmp_path.glob("cold.*"))


def test_a_clip_is_shown_as_the_api_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    from PIL import Image

    model = serve(lambda n: (200, GOOD))
    assert run(tmp_path, model, "--count", "1") == 0
    (request,) = model.requests
    assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "m", 1.0)
    (message,) = request["messages"]
    *frames, sound, question = message["content"]
    assert message["role"] == "user"
    # a second at six frames a second
    assert len(frames) == 6
    head, _, data = frames[0]["image_url"]["url"].partition(",")
    assert (frames[0]["type"], head) == ("image_url", "data:image/jpeg;base64")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)
    assert (sound["type"], sound["input_audio"]["format"]) == ("input_audio", "wav")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["input_audio"]["data"])))
    assert rate == 16_000
    assert len(samples) == pytest.approx(16_000, abs=2_000)
    assert question["type"] == "text"
    assert "<think> </think>" in question["text"]
    assert "happy, sad, neutral" in question["text"]


def test_a_model_gives_reasons_to_clips_that_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    root = put_ovmerd(tmp_path / "mer", 1)
    model = serve(lambda n: (200, "<think>He is anxious.</think><answer>anxious</answer>"))
    args = ("--format", "emer", "--root", str(root), "--taxonomy", "r1_omni", "--out", str(tmp_path / "cold.json"))
    assert (
        main(["make-cold-start", *args, "--count", "2", "--from", "model", "--endpoint", model.url, "--model", "m"])
        == 0
    )
    summary = summary_of(capsys)
    assert (summary["written"], summary["dropped"]) == (2, {})


def test_what_is_not_there_is_not_shown() -> None:
    silent = DecodedClip(frames=np.zeros((1, 8, 8, 3), dtype=np.uint8), fps=1.0, waveform=None)
    heard = DecodedClip(frames=None, fps=0.0, waveform=np.zeros(160, dtype=np.float32))
    assert [part["type"] for part in clip_parts(silent)] == ["image_url"]
    assert [part["type"] for part in clip_parts(heard)] == ["input_audio"]


def test_the_same_command_goes_on_and_asks_nothing_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    first = serve(lambda n: (200, GOOD if n == 0 else "no"))
    assert run(tmp_path, first, "--count", "2", "--attempts", "2") == 1
    summary = summary_of(capsys)
    assert (summary["written"], summary["wanted"], len(first.requests)) == (1, 2, 7)
    log = tmp_path / "cold.attempts.jsonl"
    before = log.read_text()
    # a line that broke off
    log.write_text(before + '{"clip": "1", "att')
    second = serve(lambda n: (200, GOOD))
    assert run(tmp_path, second, "--count", "2", "--attempts", "3") == 0
    assert summary_of(capsys)["written"] == 2
    # one more attempt at one clip is all that was needed
    assert len(second.requests) == 1
    assert second.requests[0]["seed"] == 2
    assert log.read_text().startswith(before)
    third = serve(lambda n: (200, GOOD))
    assert run(tmp_path, third, "--count", "2", "--attempts", "3") == 0
    assert third.requests == []
    assert "attempts must be of --model m2, got m" in mistake_of(capsys, tmp_path, third, "--model", "m2")


def mistake_of(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Model, *more: str) -> str:
    """The one line of a mistake."""
    capsys.readouterr()
    assert run(tmp_path, model, *more) == 2
    return capsys.readouterr().err


def test_a_clip_that_cannot_be_decoded_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    root = put_dfew(tmp_path / "DFEW", train=dict.fromkeys(range(1, 5), 1), test={})
    (root / "part_2" / "1.mp4").write_bytes(b"")
    model = serve(lambda n: (200, GOOD))
    assert run(tmp_path, model, "--count", "4") == 1
    assert summary_of(capsys)["verdicts"] == {"accepted": 3, "empty": 1}


def test_a_refused_request_is_a_mistake_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    model = serve(lambda n: (401, {"error": "no such key"}))
    message = mistake_of(capsys, tmp_path, model)
    assert "--endpoint must accept the request, got 401" in message
    assert "no such key" in message
    assert len(model.requests) == 1


def test_a_busy_endpoint_is_asked_again(serve: Serve) -> None:
    clip = DecodedClip(frames=None, fps=0.0, waveform=None)

    async def answer(model: Model) -> str:
        endpoint = Endpoint(model.url, model="m", token_env=None, first_wait_s=0.0)
        try:
            return await endpoint.ask(clip, "Why?", temperature=0.5, max_tokens=3, seed=7)
        finally:
            await endpoint.close()

    busy = serve(lambda n: (503, {}) if n < 2 else (200, GOOD))
    assert asyncio.run(answer(busy)) == GOOD
    assert len(busy.requests) == 3
    assert busy.tokens == [None] * 3
    down = serve(lambda n: (503, {}))
    with pytest.raises(EndpointError, match=r"got 503: \{\} 5 times"):
        asyncio.run(answer(down))
    strange = serve(lambda n: (200, {"choices": []}))
    with pytest.raises(EndpointError, match="must answer with choices"):
        asyncio.run(answer(strange))
    wrong = serve(lambda n: (404, {}))
    with pytest.raises(ConfigError, match="got 404"):
        asyncio.run(answer(wrong))


# -- what leaves the machine ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--endpoint", "http://far.example/v1"), "--endpoint must be https to another machine, got"),
        (
            ("--endpoint", "http://far.example/v1", "--token-env", ""),
            "--endpoint must be https to another machine, got",
        ),
        (
            ("--endpoint", "http://far.example/v1", "--allow-plain-http"),
            "--endpoint must be https to another machine where there is a token",
        ),
        (("--endpoint", "https://me:hunter2@far.example/v1"), "must hold no password, got one for 'far.example'"),
        (("--endpoint", "http://me:hunter2@127.0.0.1:1/v1"), "must hold no password, got one for '127.0.0.1'"),
        (("--endpoint", "https://far.example/v1?key=hunter2"), "must end with its path"),
        (("--token-env", "A_BAD_TOKEN"), "--token-env must name a variable that holds printable ASCII"),
    ],
)
def test_an_endpoint_that_keeps_nothing_private_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
    more: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    monkeypatch.setenv("A_BAD_TOKEN", "sesame\n")
    model = serve(lambda n: (200, GOOD))
    line = mistake_of(capsys, tmp_path, model, *more)
    assert message in line
    assert "hunter2" not in line
    assert "sesame" not in line
    assert model.requests == []


def test_plain_http_to_another_machine_is_allowed_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "sesame")
    Endpoint("http://far.example/v1", model="m", token_env=None, allow_plain_http=True)
    with pytest.raises(ConfigError, match="where there is a token"):
        Endpoint("http://far.example/v1", model="m", token_env="A_TOKEN", allow_plain_http=True)


def test_no_proxy_of_the_environment_sees_the_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    model = serve(lambda n: (200, GOOD))
    with http_server(lambda reply: reply.send(502)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        assert run(tmp_path, model, "--count", "1") == 0
        assert proxy.requests == []
    assert len(model.requests) == 1


@pytest.mark.parametrize("status", [401, 200])
def test_a_token_that_the_endpoint_repeats_is_not_shown_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    root = put_dfew(tmp_path / "DFEW", train=dict.fromkeys(range(1, 5), 1), test={})
    args = ("--format", "dfew", "--root", str(root), "--taxonomy", "dfew", "--out", str(tmp_path / "cold.json"))
    answer = json.dumps({"choices": [{"message": {"content": f"{GOOD} sesame"}}]})
    body = answer if status == 200 else "no such key: sesame"
    with http_server(lambda reply: reply.send(status, body.encode())) as server:
        options = ("--from", "model", "--endpoint", server.url, "--model", "m", "--parallel", "1", "--count", "1")
        code = main(["make-cold-start", *args, *options, "--attempts", "1"])
        assert server.requests[0][1]["Authorization"] == "Bearer sesame"
    shown = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.glob("cold.*"))
    assert code != 0
    assert "[token]" in shown.err + written
    assert "sesame" not in shown.out + shown.err + written


def test_a_redirect_is_a_mistake_and_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve
) -> None:
    model = serve(lambda n: (200, GOOD))
    with http_server(lambda reply: reply.send(307, Location=f"{model.url}/chat/completions")) as server:
        line = mistake_of(capsys, tmp_path, model, "--endpoint", server.url)
    assert f"--endpoint must accept the request, got 307: {{}} from {server.url}" in line
    assert model.requests == []


def send_compressed(reply: Reply) -> None:
    reply.send(body=gzip.compress(bytes(2**22)), Content_Encoding="gzip")


def send_too_much(reply: Reply) -> None:
    reply.send(body=b" " * (MAX_REPLY_BYTES + 1))


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (send_compressed, "got Content-Encoding 'gzip'"),
        (send_too_much, f"got more than {MAX_REPLY_BYTES} bytes"),
    ],
)
def test_a_reply_that_is_too_long_or_compressed_ends_the_command(
    send: Callable[[Reply], None], message: str
) -> None:
    clip = DecodedClip(frames=None, fps=0.0, waveform=None)

    async def answer(url: str) -> str:
        endpoint = Endpoint(url, model="m", token_env=None)
        try:
            return await endpoint.ask(clip, "Why?", temperature=0.5, max_tokens=3, seed=7)
        finally:
            await endpoint.close()

    with http_server(send) as server:
        with pytest.raises(EndpointError, match=message):
            asyncio.run(answer(server.url))
        assert len(server.requests) == 1
        assert server.has_closed()
