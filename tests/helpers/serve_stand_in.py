"""A stand-in on the loopback interface for a server of vLLM's with the plugin, and ``prunevid bench
serve`` against two of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from prunevid_kernels import budget_tokens
from prunevid_kernels.benchmarks.cli import app

VISUAL, TEXT = 288, 30


@contextmanager
def stand_in(
    share: float,
    *,
    wrong_by: int = 0,
    missing_tokens: int = 0,
    status: int = 200,
    seen: list[str] | None = None,
    answers: int | None = None,
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps ``share`` and dies after so many ``answers``; yields its URL and the
    requests that it gets."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

        def do_GET(self) -> None:
            if self.path == "/health" and answers is not None and len(requests) > answers:
                self.send_error(503)
                return
            self._send("application/json", json.dumps({"object": "list", "data": [{"id": "m"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            if seen is not None:
                seen.append(f"http://{self.headers['Host']}/v1")
            if answers is not None and len(requests) > answers:
                self.send_error(500, "no engine")
                return
            own = body.get("mm_processor_kwargs", {}).get("prunevid_retain", share)
            prompt = TEXT + budget_tokens(1, VISUAL, own) + (wrong_by if own == share else 0)
            said = body["max_tokens"] - missing_tokens
            usage = {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt}
            deltas = [{"role": "assistant", "content": ""}, *[{"content": "a"}] * said]
            chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
            chunks.append({"choices": [], "usage": usage})
            self._send(
                "text/event-stream",
                "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n",
            )

        def _send(self, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bench(out: Path, unpruned: str, pruned: str, *options: str) -> Any:
    urls = ["--unpruned-url", unpruned, "--pruned-url", pruned]
    arguments = ["bench", "serve", *urls, "--out", str(out), "--concurrency", "2"]
    arguments += ["--wave-requests", "1", *options]
    return CliRunner().invoke(app, arguments)
