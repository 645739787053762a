"""``prunevid bench serve``: a vLLM server's throughput and latency, unpruned and pruned."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..support.terminal import AsJson, fail, print_summary, say


def serve_command(
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder to serve; not needed if both URLs are given."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="mp4 file to ask about.  [default: the sample clip]")
    ] = None,
    retain: Annotated[float, typer.Option(help="Share of the visual tokens to keep.")] = 0.2,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(
            help="Number of concurrent requests; may be repeated.  [default: 1 2 4 8 16 32]"
        ),
    ] = None,
    waves: Annotated[
        int, typer.Option(help="Requests sent at each --concurrency, as a multiple of it.")
    ] = 4,
    max_tokens: Annotated[int, typer.Option(help="Number of tokens to generate.")] = 16,
    unpruned_url: Annotated[
        str | None,
        typer.Option(help="URL of a running server without pruning, up to /v1; with --pruned-url."),
    ] = None,
    pruned_url: Annotated[
        str | None,
        typer.Option(help="URL of the same model pruned, started with --trust-request-mm-kwargs."),
    ] = None,
    server_options: Annotated[
        str, typer.Option(help="Further options for the servers, written as on a command line.")
    ] = "",
    start_limit_s: Annotated[
        float, typer.Option(help="Seconds to wait for a server to start.")
    ] = 600.0,
    out: Annotated[
        Path, typer.Option(help="Folder to write table, JSON and server logs to.")
    ] = Path("serve-benchmark"),
    as_json: AsJson = None,
) -> None:
    """Measure a vLLM server's throughput and time to the first token, unpruned and pruned.

    Needs vLLM where it starts the servers itself. Without a GPU it shows that everything works.
    """
    if unpruned_url is None and model is None:
        fail("say what to measure: --model FOLDER, or --unpruned-url and --pruned-url")
    if unpruned_url is None and find_spec("vllm") is None:
        fail("vllm is not installed: pip install '.[vllm]' in a checkout, or give both URLs")
    from ..cost.serve.bench import CPU_FIGURES, ServeCheckError, ServeRequest, bench_serve
    from ..cost.serve.client import RequestError
    from ..cost.serve.server import ServerError
    from ..embedded.sample_clip import SAMPLE_CLIP

    try:
        request = ServeRequest(
            model=model or Path(),
            video=video or SAMPLE_CLIP,
            retain=retain,
            concurrency=tuple(concurrency or (1, 2, 4, 8, 16, 32)),
            waves=waves,
            max_tokens=max_tokens,
            unpruned_url=unpruned_url,
            pruned_url=pruned_url,
            server_options=tuple(shlex.split(server_options)),
            start_limit_s=start_limit_s,
        )
        results = bench_serve(request, out=out, progress=lambda line: say(line, file=sys.stderr))
    except (ValueError, ServerError, RequestError, ServeCheckError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror or error}")
    say((out / "serve.md").read_text(encoding="utf-8"))
    if results["note"] == CPU_FIGURES:
        say(CPU_FIGURES, file=sys.stderr)
    keys = ("kind", "device", "environment")
    found = {"results": str(out / "serve.json")} | {key: results[key] for key in keys}
    print_summary(found, as_json)
