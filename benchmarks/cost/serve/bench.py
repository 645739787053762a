"""What pruning does to a server: requests a second and time to the first token.

The same model is served several times by vLLM: as it is (the baseline), under its PruneVid
architecture, and with the engine's own pruning where it has any for the model, at the same share of
the tokens. All are asked about the same video at rising concurrency. Everything a request costs is
in the numbers: decoding the video, vision tower, merge, prefill, decoding.

The servers stand beside each other and take turns, a wave of requests each, so that a machine that
has other work to do is as slow for one as for the other: ratios are of waves that followed each
other. No number is reported unless the pruned server's usage counts exactly the budgeted tokens and
the engine's own methods keep as many, within one percent. How many visual tokens the video has is
found out by asking the pruned server to keep one. A server that dies is reported as one that died
(turns.py), and so is a method of the engine's own that does not start; how long the merges
took is told by the plugin's own clock (merge_times.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from prunevid_kernels import budget_tokens

from ...support.environment import describe
from .client import Client, Load
from .merge_times import ENVIRONMENT, OPTIONS, is_taken, read_clock, start_clock
from .plot import serve_plot
from .server import ServerError, cause_of_death, running_server
from .subjects import (
    ENGINE_METHODS,
    PRUNED,
    UNPRUNED,
    architecture_of,
    device_options,
    engine_methods,
    options_of,
)
from .table import table
from .turns import Death, Turns, Wave, ratios

MAX_CONCURRENCY = 64
MAX_REQUESTS_A_LEVEL = 512
CPU_FIGURES = "CPU figures: they show that it works, not what a GPU gains"
ONE_TOKEN = 1e-9  # a share so small that one token is left


class ServeCheckError(RuntimeError):
    """A server does not do what its settings say; nothing was reported."""


@dataclass(frozen=True)
class ServeRequest:
    """What to measure.

    Attributes:
        model: checkpoint folder to serve; unused where URLs are given.
        video: mp4 file to ask about.
        retain: share of the visual tokens that pruned servers keep.
        concurrency: levels, each 1 to :data:`MAX_CONCURRENCY`.
        waves: how often the servers take turns at each level.
        wave_requests: requests of a wave, or as many as the level if that is more: a single one
            says little.
        warm_waves: such waves before those that count; the first batch of a size may compile.
        max_tokens: of every answer.
        methods: the engine's own methods to measure as well; None: those it has for the model.
        urls: running servers to measure instead, by subject: ``"unpruned"`` and ``"pruned"``, which
            has to trust requests' processor arguments (``--trust-request-mm-kwargs``), and any of
            the engine's methods. Or none.
        server_options: further options of vLLM's server.
        start_limit_s, request_limit_s: longest waits.
    """

    model: Path
    video: Path
    retain: float
    concurrency: tuple[int, ...]
    waves: int = 4
    wave_requests: int = 4
    warm_waves: int = 1
    max_tokens: int = 16
    methods: tuple[str, ...] | None = None
    urls: dict[str, str] = field(default_factory=dict)
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
        if not 1 <= self.wave_requests <= MAX_CONCURRENCY:
            raise ValueError(
                f"wave_requests must be between 1 and {MAX_CONCURRENCY}, got {self.wave_requests}"
            )
        most = MAX_REQUESTS_A_LEVEL // max(*self.concurrency, self.wave_requests)
        if not 1 <= self.waves <= most:
            raise ValueError(f"waves must be between 1 and {most}, got {self.waves}")
        if not 0 <= self.warm_waves <= most:
            raise ValueError(f"warm_waves must be between 0 and {most}, got {self.warm_waves}")
        if not 0.0 < self.retain < 1.0:
            raise ValueError(f"retain must be in (0, 1), got {self.retain}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        for method in self.methods or ():
            if method not in ENGINE_METHODS:
                known = ", ".join(ENGINE_METHODS)
                raise ValueError(f"the engine's methods are {known}, got {method!r}")
        if self.urls and not {UNPRUNED, PRUNED} <= self.urls.keys():
            raise ValueError(
                "the URLs of an unpruned and a pruned server must be given together, "
                f"got {', '.join(self.urls)}"
            )
        if not self.video.is_file():
            raise ValueError(f"video must be a file, got {self.video}")


@dataclass(frozen=True)
class PromptTokens:
    """Prompt lengths that the check has seen."""

    unpruned: int
    pruned: int
    visual: int
    merged: int


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


def check_engine(method: str, client: Client, *, tokens: PromptTokens) -> int:
    """The prompt tokens of the engine's own method, which must be as many as the pruned server's.

    Raises:
        ServeCheckError: more than one percent of the merged tokens, and more than one, apart.
    """
    came = client.ask().prompt_tokens
    if abs(came - tokens.pruned) > max(1, tokens.merged // 100):
        raise ServeCheckError(
            f"{method} must keep as many tokens as PruneVid, a prompt of {tokens.pruned} tokens, "
            f"got {came}: these methods keep at least a frame or a token of each frame, so measure "
            "at a larger share or on a longer video"
        )
    return came


def bench_serve(
    request: ServeRequest, *, out: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all servers and write ``serve.json``, ``serve.md`` and ``serve.png`` into ``out``.

    Raises:
        ValueError: a model that cannot be served. ServerError, RequestError, ServeCheckError: an
            unpruned or pruned server that does not come up, a server that fails a request and
            lives on, or does not prune as it says.
    """
    out.mkdir(parents=True, exist_ok=True)
    is_own = not request.urls
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results: dict[str, Any] = {
        "schema_version": 1,
        "kind": "serve",
        "model": request.model.name if is_own else f"served at {request.urls[PRUNED]}",
        "video": request.video.name,
        "retain": request.retain,
        "max_tokens": request.max_tokens,
        "waves": request.waves,
        "wave_requests": request.wave_requests,
        "warm_waves": request.warm_waves,
        "server_options": list(request.server_options) if is_own else None,
        "engine": _engine() if is_own else None,
        "device": device.type if is_own else None,
        "note": _note(is_own, device),
        "environment": describe(device),
        "load_average": os.getloadavg()[0],
    }
    with ExitStack() as stack:
        urls, unstarted = _start(request, stack, out, progress) if is_own else (request.urls, {})
        for measured in _levels(request, urls, unstarted, out if is_own else None, progress):
            results |= measured
            (out / "serve.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            (out / "serve.md").write_text(table(results), encoding="utf-8")
            (out / "serve.png").write_bytes(serve_plot(results))
    return results


def _levels(
    request: ServeRequest,
    urls: Mapping[str, str],
    unstarted: Mapping[str, Death],
    logs: Path | None,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """What is known after each level, as keys of the results; so a run that is cut leaves what it
    has measured. ``logs`` is the folder of our own servers'."""
    clients = {
        subject: Client(
            url,
            request.video,
            max_tokens=request.max_tokens,
            request_limit_s=request.request_limit_s,
        )
        for subject, url in urls.items()
    }
    turns = Turns(
        clients,
        {name: _log(logs, name) for name in clients} if logs else {},
        request.wave_requests,
        deaths=unstarted,
    )
    tokens = check(clients[UNPRUNED].ask().prompt_tokens, clients[PRUNED], request.retain)
    counted = {}
    for name in [name for name in clients if name not in (UNPRUNED, PRUNED)]:
        came = turns.ask(name, partial(check_engine, name, tokens=tokens), level=1)
        if came is not None:
            counted[name] = came
    has_clock = logs is not None and not is_taken(request.server_options)
    loads: dict[str, list[Load]] = {subject: [] for subject in (*clients, *unstarted)}
    compared, merging = [], []
    for level in request.concurrency:
        turns.warm(level, request.warm_waves)
        clocked = urls[PRUNED] if has_clock and PRUNED in turns.living else None
        if clocked is not None:
            start_clock(clocked)
        waves = turns.level(level, request.waves)
        if clocked is not None and PRUNED in waves:
            merges = read_clock(clocked, level, _wall_s(waves[PRUNED]))
            merging.append(asdict(merges))
        for subject, done in waves.items():
            replies = [reply for wave, _ in done for reply in wave]
            loads[subject].append(Load.of(level, replies, _wall_s(done)))
        compared.append(ratios(level, waves))
        speeds = [f"{name} {loads[name][-1].requests_per_s:.2f}" for name in waves]
        speeds += [f"{name} died ({death.error})" for name, death in turns.deaths.items()]
        progress(f"concurrency {level}: requests/s: {', '.join(speeds)}")
        yield {
            "prompt_tokens": asdict(tokens) | counted,
            "servers": {name: [asdict(load) for load in done] for name, done in loads.items()},
            "deaths": {name: asdict(death) for name, death in turns.deaths.items()},
            "ratios": compared,
            "merging": merging if has_clock else None,
        }


def _wall_s(waves: Sequence[Wave]) -> float:
    return sum(wall for _, wall in waves)


def _log(folder: Path, subject: str) -> Path:
    return folder / f"{subject}.log"


def _start(
    request: ServeRequest, stack: ExitStack, out: Path, progress: Callable[[str], None]
) -> tuple[dict[str, str], dict[str, Death]]:
    """URLs of the servers, and why methods of the engine's own did not start."""
    architecture = architecture_of(request.model)
    methods = engine_methods(architecture) if request.methods is None else request.methods
    subjects = (UNPRUNED, PRUNED, *methods)
    # All of them before the first one takes memory.
    device = {
        subject: device_options(request.server_options, subject, len(subjects))
        for subject in subjects
    }
    urls: dict[str, str] = {}
    unstarted: dict[str, Death] = {}
    for subject in subjects:
        options = [*request.server_options, *options_of(subject, architecture, request.retain)]
        options += device[subject]
        environment = {}
        if subject == PRUNED and not is_taken(request.server_options):
            options += OPTIONS
            environment = ENVIRONMENT
        progress(f"{subject}: starting the server ...")
        started = running_server(
            request.model,
            options,
            log=_log(out, subject),
            start_limit_s=request.start_limit_s,
            environment=environment,
        )
        try:
            urls[subject] = stack.enter_context(started)
        except ServerError as error:
            if subject not in methods:
                raise
            cause = cause_of_death(_log(out, subject)) or str(error).splitlines()[0]
            progress(f"{subject}: did not start ({cause})")
            unstarted[subject] = Death(0, cause)
    return urls, unstarted


def _engine() -> dict[str, str]:
    """vLLM's version, by the name of its distribution, which differs between devices."""
    return {name: version(name) for name in packages_distributions()["vllm"]}


def _note(is_own: bool, device: torch.device) -> str:
    if not is_own:
        return "Measured on servers that were running already; this command does not know on what"
    return CPU_FIGURES if device.type == "cpu" else "GPU figures"
