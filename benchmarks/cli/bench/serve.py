"""``prunevid bench serve``: a vLLM server's throughput and latency, unpruned and pruned, by
PruneVid and by the engine itself."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ...support.terminal import AsJson, fail, print_summary, say


def serve_command(
    model: Annotated[
        Path | None,
        typer.Option(help="Checkpoint folder to serve; not needed if URLs are given."),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="mp4 file to ask about.  [default: the sample clip]")
    ] = None,
    retain: Annotated[float, typer.Option(help="Share of the visual tokens to keep.")] = 0.2,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(help="Number of concurrent requests; may be repeated.  [default: 1 4 16 32]"),
    ] = None,
    waves: Annotated[
        int, typer.Option(help="Times the servers take turns at each --concurrency.")
    ] = 4,
    wave_requests: Annotated[
        int, typer.Option(help="Requests in a turn, where that is more than --concurrency.")
    ] = 4,
    warm_waves: Annotated[
        int, typer.Option(help="Turns before those, which do not count: a first batch may compile.")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(help="Number of tokens to generate.")] = 16,
    engine_method: Annotated[
        list[str] | None,
        typer.Option(
            help="vLLM's own pruning to measure as well, evs or vidcom2, or none; may be repeated."
            "  [default: those it has for the model]"
        ),
    ] = None,
    unpruned_url: Annotated[
        str | None,
        typer.Option(help="URL of a running server without pruning, up to /v1; with --pruned-url."),
    ] = None,
    pruned_url: Annotated[
        str | None,
        typer.Option(help="URL of the same model pruned, started with --trust-request-mm-kwargs."),
    ] = None,
    evs_url: Annotated[
        str | None, typer.Option(help="URL of the same model with the engine's EVS, if any.")
    ] = None,
    vidcom2_url: Annotated[
        str | None, typer.Option(help="URL of the same model with the engine's VidCom2, if any.")
    ] = None,
    server_options: Annotated[
        str, typer.Option(help="Further options for the servers, written as on a command line.")
    ] = "",
    start_limit_s: Annotated[
        float, typer.Option(help="Seconds to wait for a server to start.")
    ] = 600.0,
    request_limit_s: Annotated[
        float, typer.Option(help="Seconds after which a request has failed.")
    ] = 300.0,
    out: Annotated[
        Path, typer.Option(help="Folder to write table, JSON and server logs to.")
    ] = Path("serve-benchmark"),
    as_json: AsJson = None,
) -> None:
    """Measure vLLM's throughput and time to the first token: unpruned, pruned, and pruned by vLLM.

    Needs vLLM where it starts the servers itself; they run beside each other and take turns.
    Without a GPU it shows that everything works.
    """
    named = zip(
        ("unpruned", "pruned", "evs", "vidcom2"),
        (unpruned_url, pruned_url, evs_url, vidcom2_url),
        strict=True,
    )
    urls = {name: url for name, url in named if url is not None}
    if not urls and model is None:
        fail("say what to measure: --model FOLDER, or --unpruned-url and --pruned-url")
    if not urls and find_spec("vllm") is None:
        fail("vllm is not installed: pip install '.[vllm]' in a checkout, or give both URLs")
    from ...cost.serve.bench import CPU_FIGURES, ServeCheckError, ServeRequest, bench_serve
    from ...cost.serve.client import RequestError
    from ...cost.serve.server import ServerError
    from ...embedded.sample_clip import SAMPLE_CLIP

    try:
        request = ServeRequest(
            model=model or Path(),
            video=video or SAMPLE_CLIP,
            retain=retain,
            concurrency=tuple(concurrency or (1, 4, 16, 32)),
            waves=waves,
            wave_requests=wave_requests,
            warm_waves=warm_waves,
            max_tokens=max_tokens,
            methods=_methods(engine_method),
            urls=urls,
            server_options=tuple(shlex.split(server_options)),
            start_limit_s=start_limit_s,
            request_limit_s=request_limit_s,
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
    if needed := {"unpruned", "pruned"} & results["deaths"].keys():
        dead = [f"{name}: {results['deaths'][name]['error']}" for name in sorted(needed)]
        fail(f"a server died, the figures of the others are kept: {', '.join(dead)}")


def _methods(named: list[str] | None) -> tuple[str, ...] | None:
    """None: those the engine has; ``none`` alone: none of them."""
    if named is None:
        return None
    return () if named == ["none"] else tuple(named)
