"""How long the pruned server's own merges take, asked of its workers.

The plugin's clock runs in each worker. vLLM loads :class:`MergeTimes` into the workers of the
server that is measured (``--worker-extension-cls``) and passes a call on to them, where its
endpoints for development are on. They are on for that server alone, on the loopback interface.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

from prunevid_kernels.adapters.vllm.merging import CLOCK

EXTENSION_OPTION = "--worker-extension-cls"
ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
LIMIT_S = 60.0


class MergeTimes:
    """Methods that vLLM's workers get."""

    def start_merge_clock(self) -> None:
        """Count from zero."""
        CLOCK.start()

    def read_merge_clock(self) -> list[float]:
        """Merged videos, and the seconds that they took."""
        return [*CLOCK.read()]


OPTIONS = [EXTENSION_OPTION, f"{__name__}.{MergeTimes.__name__}"]


def is_taken(server_options: Sequence[str]) -> bool:
    """Whether the user's own options give the workers another extension."""
    return any(option.split("=")[0] == EXTENSION_OPTION for option in server_options)


@dataclass(frozen=True)
class Merging:
    """What the merges of one level took, on the slowest worker.

    Attributes:
        videos: that a worker has merged.
        ms_per_video: of the merge, and of what puts its tokens in place.
        share: of the time in which requests were under way.
    """

    concurrency: int
    videos: int
    ms_per_video: float
    share: float


def start_clock(base_url: str) -> None:
    """Have all workers of a server count from zero."""
    _call(base_url, "start_merge_clock")


def read_clock(base_url: str, concurrency: int, wall_s: float) -> Merging:
    """What was merged since :func:`start_clock`, while requests were under way for ``wall_s``."""
    videos, seconds = max(_call(base_url, "read_merge_clock"), key=lambda counted: counted[1])
    assert videos, "every request brings a video that the server has not seen"
    return Merging(concurrency, int(videos), 1000 * seconds / videos, seconds / wall_s)


def _call(base_url: str, method: str) -> list[list[float]]:
    request = urllib.request.Request(
        base_url.removesuffix("/v1") + "/collective_rpc",
        json.dumps({"method": method}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        results: list[list[float]] = json.load(answer)["results"]
    return results
