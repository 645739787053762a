"""For every test: no network, one thread a process, Triton's interpreter, poisoned memory.

The environment is set before anything is imported, because OpenMP, huggingface-hub and
``@triton.jit`` read it once, on import. A value that the caller has set stays.
"""

import os
import random
import sys

if "triton" in sys.modules:
    raise RuntimeError(
        "triton was imported before tests/conftest.py could switch its interpreter on"
    )
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
import quick_interpreter  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

quick_interpreter.install()

# The same examples on every run and machine: a failure is a failure of the change at hand.
settings.register_profile(
    "prunevid",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("prunevid")

# Fresh memory (torch.empty and its relatives) holds NaN or the largest integer, so that an output
# that a kernel leaves unwritten shows, whatever the allocator hands out. torch fills it while
# deterministic algorithms are on; warn_only, because an operation of a model that has no
# deterministic form is not what is being tested.
# Like use_deterministic_algorithms(True, warn_only=True), which would import torch's compiler.
torch.set_deterministic_debug_mode("warn")
torch.utils.deterministic.fill_uninitialized_memory = True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the larger grid of cases as well")
    parser.addoption(
        "--one-case", action="store_true", help="of each test function, run one of its cases"
    )


@pytest.hookimpl(trylast=True)  # after -m and -k: cases are drawn from what these leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full, leave out what is marked ``full`` and what is beyond a ``sample``."""
    if config.getoption("--full"):
        return
    left_out = {item for item in items if item.get_closest_marker("full")}
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item not in left_out:
            functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, cases in functions.items():
        marker = cases[0].get_closest_marker("sample")
        size = 1 if config.getoption("--one-case") else marker.args[0] if marker else len(cases)
        if size < len(cases):
            # Drawn, but the same ones in every run; by the function's name, so that functions which
            # share their parameters take different ones.
            drawn = random.Random(name).sample(range(len(cases)), size)
            left_out.update(case for i, case in enumerate(cases) if i not in drawn)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
