"""A pretended device that cannot be asked: whatever would wait for it is an error.

Torch's meta tensors have shapes, dtypes and a device that is not the host, and no values. So a look
at a number, a shape that depends on one, and a copy to the host have no answer. The core's ops are
seen by their shapes, as torch.compile sees them: no kernel is launched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from prunevid_kernels import budget, merging, ops, planes


@contextmanager
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, for as long as the block lasts."""
    with monkeypatch.context() as patched:
        for module in (ops, merging, planes):
            patched.setattr(module, "is_tracing", lambda: True)
        for module in (ops, merging, budget, planes):
            patched.setattr(module, "resolve_impl", lambda impl, tensor: "triton")
        yield torch.device("meta")
