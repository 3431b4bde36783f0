"""A service that implements `POST /v1/score` with the standard library alone.

python reward/examples/http_service.py 8600
- {type: http, name: remote, url: "http://127.0.0.1:8600"}
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def score(sample: dict[str, Any]) -> dict[str, Any]:
    """One result: `total` is the reward, null if it does not apply."""
    return {"total": float(len(sample["completion"]) > 0), "breakdown": {}}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Returns a result per sample, in their order."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_known = self.path == "/v1/score"
        answer = json.dumps(
            {"results": [score(sample) for sample in json.loads(body)["samples"]]} if is_known else {}
        )
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
