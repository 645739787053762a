"""What pruning does to a server: requests per second and time to the first token, with and without.

The same model is served twice by vLLM, as it is (the baseline) and under its PruneVid architecture,
one after the other, and asked about the same video at rising concurrency. Everything a request
costs is in the numbers: decoding the video, vision tower, merge, prefill, decoding.

No number is reported unless the pruned server passes a check: its usage must count exactly the
budgeted tokens. How many visual tokens the video has is found out by asking it to keep one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from prunevid_kernels import budget_tokens
from prunevid_kernels.adapters.checkpoint.files import read_json
from prunevid_kernels.adapters.vllm import ARCHITECTURES

from ...support.environment import describe
from .client import Client, Load
from .plot import serve_plot
from .server import running_server

MAX_CONCURRENCY = 64
MAX_REQUESTS_A_LEVEL = 512
CPU_FIGURES = "CPU figures: they show that it works, not what a GPU gains"
ONE_TOKEN = 1e-9  # a share so small that one token is left


class ServeCheckError(RuntimeError):
    """The pruned server does not do what its settings say; nothing was reported."""


@dataclass(frozen=True)
class ServeRequest:
    """What to measure.

    Attributes:
        model: checkpoint folder, served twice; unused where both URLs are given.
        video: mp4 file to ask about.
        retain: share of the visual tokens that the pruned server keeps.
        concurrency: levels, each 1 to :data:`MAX_CONCURRENCY`.
        waves: requests of a level for each one under way.
        max_tokens: of every answer.
        unpruned_url, pruned_url: running servers to measure instead, both or none; the pruned one
            has to trust requests' processor arguments (``--trust-request-mm-kwargs``).
        server_options: further options of vLLM's server.
        start_limit_s, request_limit_s: longest waits.
    """

    model: Path
    video: Path
    retain: float
    concurrency: tuple[int, ...]
    waves: int = 4
    max_tokens: int = 16
    unpruned_url: str | None = None
    pruned_url: str | None = None
    server_options: tuple[str, ...] = ()
    start_limit_s: float = 600.0
    request_limit_s: float = 300.0

    def __post_init__(self) -> None:
        for level in self.concurrency:
            if not 1 <= level <= MAX_CONCURRENCY:
                raise ValueError(
                    f"concurrency must be between 1 and {MAX_CONCURRENCY}, got {level}"
                )
        if not self.concurrency:
            raise ValueError("concurrency must name at least one level, got none")
        most = MAX_REQUESTS_A_LEVEL // max(self.concurrency)
        if not 1 <= self.waves <= most:
            raise ValueError(f"waves must be between 1 and {most}, got {self.waves}")
        if not 0.0 < self.retain < 1.0:
            raise ValueError(f"retain must be in (0, 1), got {self.retain}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if (self.unpruned_url is None) != (self.pruned_url is None):
            raise ValueError("unpruned_url and pruned_url must be given together, got one of them")
        if not self.video.is_file():
            raise ValueError(f"video must be a file, got {self.video}")


@dataclass(frozen=True)
class PromptTokens:
    """Prompt lengths that the check has seen."""

    unpruned: int
    pruned: int
    visual: int
    merged: int


def pruned_architecture(model: Path) -> str:
    """The PruneVid architecture for a checkpoint folder.

    Raises:
        ValueError: no checkpoint, or none of a model that the plugin knows.
    """
    config = model / "config.json"
    if not config.is_file():
        raise ValueError(f"model must be a checkpoint folder with a config.json, got {model}")
    named = read_json(config).get("architectures") or ["none"]
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ValueError(f"{config}: architectures must be a list of names, got {named!r}")
    architecture = f"PruneVid{named[0]}"
    if architecture not in ARCHITECTURES:
        known = ", ".join(name.removeprefix("PruneVid") for name in ARCHITECTURES)
        raise ValueError(f"model must be one of {known}, got {named[0]}")
    return architecture


def check(unpruned: int, pruned: Client, retain: float) -> PromptTokens:
    """Hold the pruned server's usage against the budget.

    Args:
        unpruned: prompt tokens that the unpruned server counts for the same request.
        pruned: client of the pruned server.
        retain: the server's share.

    Raises:
        ServeCheckError: what was expected and what came.
    """
    everything, one = pruned.ask(retain=1.0), pruned.ask(retain=ONE_TOKEN)
    if everything.prompt_tokens != unpruned:
        raise ServeCheckError(
            f"keeping everything must give the unpruned server's {unpruned} prompt tokens, "
            f"got {everything.prompt_tokens}"
        )
    visual = unpruned - one.prompt_tokens + 1
    merged = budget_tokens(1, visual, retain)
    came = pruned.ask().prompt_tokens
    if came != unpruned - visual + merged:
        raise ServeCheckError(
            f"retain {retain} must leave {merged} of {visual} visual tokens, a prompt of "
            f"{unpruned - visual + merged} tokens, got {came}"
        )
    return PromptTokens(unpruned, came, visual, merged)


def bench_serve(
    request: ServeRequest, *, out: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure both servers and write ``serve.json``, ``serve.md`` and ``serve.png`` into ``out``.

    Raises:
        ValueError: a model that cannot be served. ServerError, RequestError, ServeCheckError: a
            server that does not come up, does not answer, or does not prune as it says.
    """
    out.mkdir(parents=True, exist_ok=True)
    is_own = request.unpruned_url is None
    with _server(request, "unpruned", out, progress) as url:
        client = _client(request, url)
        unpruned_tokens = client.ask().prompt_tokens
        unpruned = _levels(request, client, "unpruned", progress)
    with _server(request, "pruned", out, progress) as url:
        client = _client(request, url)
        tokens = check(unpruned_tokens, client, request.retain)
        pruned = _levels(request, client, "pruned", progress)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {
        "kind": "serve",
        "model": request.model.name if is_own else f"served at {request.pruned_url}",
        "video": request.video.name,
        "retain": request.retain,
        "max_tokens": request.max_tokens,
        "waves": request.waves,
        "prompt_tokens": asdict(tokens),
        "unpruned": [asdict(load) for load in unpruned],
        "pruned": [asdict(load) for load in pruned],
        "server_options": list(request.server_options) if is_own else None,
        "engine": _engine() if is_own else None,
        "device": device.type if is_own else None,
        "note": _note(is_own, device),
        "environment": describe(device),
    }
    (out / "serve.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (out / "serve.md").write_text(table(results), encoding="utf-8")
    (out / "serve.png").write_bytes(serve_plot(results))
    return results


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    tokens = results["prompt_tokens"]
    lines = [
        f"{results['model']}, {results['video']}: {tokens['visual']} visual tokens, "
        f"{tokens['merged']} kept; prompt of {tokens['unpruned']} and {tokens['pruned']} tokens; "
        f"{results['max_tokens']} tokens an answer. {results['note']}.",
        "",
        "| concurrency | requests | requests/s | pruned | TTFT p50 ms | pruned | TTFT p99 ms "
        "| pruned |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for before, after in zip(results["unpruned"], results["pruned"], strict=True):
        cells = [str(before["concurrency"]), str(before["requests"])]
        for key, digits in (
            ("requests_per_s", 2),
            ("first_token_p50_ms", 0),
            ("first_token_p99_ms", 0),
        ):
            cells += [f"{before[key]:.{digits}f}", f"{after[key]:.{digits}f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _engine() -> dict[str, str]:
    """vLLM's version, by the name of its distribution, which differs between devices."""
    return {name: version(name) for name in packages_distributions()["vllm"]}


def _note(is_own: bool, device: torch.device) -> str:
    if not is_own:
        return "Measured on servers that were running already; this command does not know on what"
    return CPU_FIGURES if device.type == "cpu" else "GPU figures"


def _server(
    request: ServeRequest, name: str, out: Path, progress: Callable[[str], None]
) -> AbstractContextManager[str]:
    url = request.unpruned_url if name == "unpruned" else request.pruned_url
    if url is not None:
        return nullcontext(url)
    options = [*request.server_options]
    if name == "pruned":
        architecture = pruned_architecture(request.model)
        overrides = {"architectures": [architecture], "prunevid": {"retain": request.retain}}
        options += ["--hf-overrides", json.dumps(overrides), "--trust-request-mm-kwargs"]
    progress(f"{name}: starting the server ...")
    return running_server(
        request.model, options, log=out / f"{name}.log", start_limit_s=request.start_limit_s
    )


def _client(request: ServeRequest, url: str) -> Client:
    return Client(
        url,
        request.video,
        max_tokens=request.max_tokens,
        request_limit_s=request.request_limit_s,
    )


def _levels(
    request: ServeRequest, client: Client, name: str, progress: Callable[[str], None]
) -> Sequence[Load]:
    loads = []
    for level in request.concurrency:
        client.load(level, level)  # warm: the first batch of a size compiles
        loads.append(client.load(level, level * request.waves))
        progress(f"{name}: concurrency {level}: {loads[-1].requests_per_s:.2f} requests/s")
    return loads
