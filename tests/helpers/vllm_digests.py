"""What vLLM's workers hold of videos, as digests: an extension of the worker, loaded into each
worker process with ``--worker-extension-cls``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any


class Digests:
    model_runner: Any

    def write_digests(self, folder: str) -> None:
        """Leave a file of this process: a line for each video that it has merged."""
        merged = self.model_runner.encoder_cache.values()
        lines = [hashlib.sha256(item.numpy().tobytes()).hexdigest() for item in merged]
        (Path(folder) / str(os.getpid())).write_text("\n".join(lines))
