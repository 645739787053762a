"""The README's examples run as they are printed."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def test_the_plain_tensor_example_runs():
    (example,) = [block for block in python_blocks() if "torch.randn" in block]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    merged, kept = names["merged"], names["kept"]
    assert 0 < len(kept) < merged.layout.num_merged < 16 * 144
    assert names["visual_key"].shape == (1, 2, len(kept), 64)
