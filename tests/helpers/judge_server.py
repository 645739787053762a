"""A stand-in for a judge model: an OpenAI-compatible endpoint on loopback, in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Request = dict[str, Any]
# Makes an HTTP status and the judge's words of a request and how often it came before.
Behaviour = Callable[[Request, int], tuple[int, str]]


@dataclass
class JudgeServer:
    """Answers chat completions and remembers what it was asked.

    ``raw``, a content type and a body, is sent with status 200 in place of any answer.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    behaviour: Behaviour = lambda request, times: (200, '{"score": 3}')
    raw: tuple[str, bytes] | None = None


@contextmanager
def judge_server(behaviour: Behaviour | None = None) -> Iterator[JudgeServer]:
    judge = JudgeServer()
    if behaviour is not None:
        judge.behaviour = behaviour
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request["path"] = self.path
            with lock:
                times = judge.requests.count(request)
                judge.requests.append(request)
            status, words = judge.behaviour(request, times)
            message = {"role": "assistant", "content": words}
            answer: dict[str, Any] = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            }
            kind = "application/json"
            body = json.dumps(answer if status == 200 else {"error": {"message": words}}).encode()
            if judge.raw is not None:
                status, (kind, body) = 200, judge.raw
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After-Ms", "1")  # or the client would wait half a second
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
