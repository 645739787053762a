"""A model whose heads are split over two processes keeps the tokens that one process keeps."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from tiny_models import generate, question
from transformers import LlavaOnevisionForConditionalGeneration

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.adapters import prune

SCORES = ("nope", "rope")
TIMEOUT_S = 600  # for what hangs; a busy machine takes minutes


def run(model) -> list:
    """Kept tokens and answer for each score."""
    results = []
    for score in SCORES:
        with prune(model, PruneVidConfig(layer=1, score=score)) as handle:
            answer = generate(model, question()).sequences[0, -9:].tolist()
        results.append([handle.report.last.videos[0].kept.tolist(), answer])
    return results


def run_rank(rank: int, port: int, folder: Path, results: Connection) -> None:
    """What ``torchrun`` sets, and then the model as its users load it."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, tp_plan="auto").eval()
    assert model.tp_size == 2
    with torch.no_grad():
        results.send(run(model))


def test_two_processes(model, tmp_path):
    """Forked from this one: a start of their own would take most of the test's time."""
    pytest.importorskip("accelerate", reason="transformers' tp_plan needs accelerate")
    model.save_pretrained(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    forking = multiprocessing.get_context("fork")
    ranks = []
    for rank in range(2):
        receiving, sending = forking.Pipe(duplex=False)
        process = forking.Process(target=run_rank, args=(rank, port, tmp_path, sending))
        process.start()
        sending.close()
        ranks.append((process, receiving))
    try:
        # A rank that fails closes its end, and the error is on stderr.
        found = [receiving.recv() for _, receiving in ranks if receiving.poll(TIMEOUT_S)]
    finally:
        for process, _ in ranks:
            process.kill()
            process.join()
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path).eval()
    expected = run(loaded)
    assert found == [expected, expected]
