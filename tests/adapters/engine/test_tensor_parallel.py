"""A model whose heads are split over two processes keeps the tokens that one process keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import generate, question
from transformers import LlavaOnevisionForConditionalGeneration

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune

SCORES = ("nope", "rope")
PROCESS = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "helpers")!r})
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tensor_parallel import LlavaOnevisionForConditionalGeneration, run
import torch
model = LlavaOnevisionForConditionalGeneration.from_pretrained(sys.argv[1], tp_plan="auto").eval()
assert model.tp_size == 2
with torch.no_grad():
    line = json.dumps(run(model))
sys.stdout.write("RESULT " + line + chr(10))
"""


def run(model) -> list:
    """Kept tokens and answer for each score."""
    results = []
    for score in SCORES:
        with prune(model, PruneVidConfig(layer=1, score=score)) as handle:
            answer = generate(model, question()).sequences[0, -9:].tolist()
        results.append([handle.report.last.videos[0].kept.tolist(), answer])
    return results


def test_two_processes(model, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' tp_plan needs accelerate")
    model.save_pretrained(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    finished = subprocess.run(
        [*launch, script, tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    assert finished.returncode == 0, finished.stderr
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path).eval()
    expected = run(loaded)
    assert [json.loads(line.removeprefix("RESULT ")) for line in lines] == [expected, expected]
