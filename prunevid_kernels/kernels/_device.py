"""What every kernel file shares."""

from __future__ import annotations

import triton


def is_interpreted() -> bool:
    """Whether the kernels were defined under Triton's interpreter (TRITON_INTERPRET=1), which runs
    them on a CPU."""
    return bool(triton.knobs.runtime.interpret)
