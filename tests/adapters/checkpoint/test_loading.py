"""The strict loader: what it reads, what it refuses, and how much memory it takes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunevid_kernels.adapters.checkpoint.files import CheckpointError, open_checkpoint
from prunevid_kernels.adapters.checkpoint.loading import (
    Recipe,
    check_weights,
    empty_weights,
    load_weights,
    rename,
)

pytestmark = pytest.mark.one_version

KINDS = ["safetensors", "bin"]
SINGLE = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}


class Model(nn.Module):
    """Two layers, a persistent and a computed buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2, bias=False)
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("scale", torch.arange(3.0), persistent=False)


RECIPES = [
    rename(r"old\.(first|second)\.weight", r"\1.weight"),
    Recipe((r"old\.(\w+)\.q", r"old\.(\w+)\.v"), r"\1.bias", lambda q, v: torch.cat((q, v))),
    rename(r"old\.count", "count"),
]


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "old.first.weight": torch.randn(4, 3),
        "old.first.q": torch.randn(1),
        "old.first.v": torch.randn(3),
        "old.second.weight": torch.randn(2, 4),
        "old.count": torch.tensor([3, 5]),
    }


def write(folder: Path, shards: list[dict], kind: str = "safetensors", **listed: str) -> Path:
    """A single file, or several with an index; ``listed`` changes the index."""
    folder.mkdir(exist_ok=True)
    stem, suffix = SINGLE[kind].split(".")
    weight_map = {}
    for number, shard in enumerate(shards):
        name = f"{stem}-{number}.{suffix}" if len(shards) > 1 else SINGLE[kind]
        weight_map |= dict.fromkeys(shard, name)
        if kind == "bin":
            torch.save(shard, folder / name)
        else:
            save_file(shard, folder / name)
    if len(shards) > 1:
        index = {"weight_map": weight_map | listed}
        (folder / f"{SINGLE[kind]}.index.json").write_text(json.dumps(index))
    return folder


def halves() -> list[dict[str, torch.Tensor]]:
    """Two shards; the parts of the joined bias lie in both."""
    whole = tensors()
    return [{k: whole[k] for k in list(whole)[:2]}, {k: whole[k] for k in list(whole)[2:]}]


def empty() -> Model:
    with empty_weights():
        return Model()


def load(folder: Path, **options) -> Model:
    model = empty()
    options = {"dtype": None, "device": "cpu"} | options
    load_weights(model, open_checkpoint(folder), RECIPES, **options)
    return model


def error_of(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 2])
def test_every_tensor_arrives(tmp_path, kind, shards):
    stored = tensors()
    model = load(write(tmp_path / "m", halves() if shards == 2 else [stored], kind))
    assert model.first.weight.equal(stored["old.first.weight"])
    assert model.first.bias.equal(torch.cat((stored["old.first.q"], stored["old.first.v"])))
    assert model.second.weight.equal(stored["old.second.weight"])
    assert model.count.tolist() == [3, 5]
    assert model.scale.tolist() == [0, 1, 2], "a buffer that is in no checkpoint is real"
    assert not model.training and model.first.weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_dtype_is_of_floats_alone_and_nothing_stays_mapped(tmp_path, kind):
    folder = write(tmp_path / "m", [tensors()], kind)
    model = load(folder, dtype=torch.bfloat16)
    assert model.second.weight.dtype == torch.bfloat16 and model.count.dtype == torch.int64
    kept = load(folder)
    (folder / SINGLE[kind]).write_bytes(b"\0" * 4096)
    assert kept.first.weight.equal(tensors()["old.first.weight"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"old.first.weight": None}, "missing (1):\n  first.weight", id="missing"),
        pytest.param(
            {"old.first.v": None}, r"first.bias (nothing matches old\.(\w+)\.v)", id="part"
        ),
        pytest.param({"junk": torch.zeros(1)}, "unexpected (1):\n  junk", id="unexpected"),
        pytest.param(
            {"old.second.weight": torch.zeros(4, 2)},
            "second.weight: the model has [2, 4], the checkpoint [4, 2]",
            id="shape",
        ),
        pytest.param(
            {"old.first.q": torch.zeros(1, 1)},
            "first.bias: the model has [4], the checkpoint [1, 1] and [3] (",
            id="parts-that-do-not-join",
        ),
        pytest.param(
            {"old.second.weight": torch.zeros(2, 4, dtype=torch.int8)},
            "second.weight: the model has torch.float32, the checkpoint torch.int8",
            id="integers",
        ),
    ],
)
def test_what_does_not_fit(tmp_path, change, expected):
    stored = {k: v for k, v in (tensors() | change).items() if v is not None}
    with pytest.raises(CheckpointError) as caught:
        load(write(tmp_path / "m", [stored]))
    assert expected in str(caught.value)


def test_two_claims_to_one_tensor(tmp_path):
    folder = write(tmp_path / "m", [tensors() | {"also.second.weight": torch.zeros(2, 4)}])
    recipes = [*RECIPES, rename(r"also\.(.*)", r"\1")]
    report = check_weights(empty(), open_checkpoint(folder).tensors, recipes)
    assert len(report.ambiguous) == 1 and "second.weight" in report.ambiguous[0]
    assert not report.is_loadable


def test_whitelist_and_shortened_report(tmp_path):
    extra = {f"junk.{i}": torch.zeros(1) for i in range(12)}
    stored = open_checkpoint(write(tmp_path / "m", [tensors() | extra])).tensors
    report = check_weights(empty(), stored, RECIPES, ignore=(r"junk\.\d",))
    assert len(report.ignored) == 10 and report.unexpected == ("junk.10", "junk.11")
    assert report.text(limit=1).splitlines()[-2:] == ["  junk.10", "  and 1 more"]
    assert check_weights(empty(), stored, RECIPES, ignore=(r"junk\..*",)).is_loadable


# ---- folders


@pytest.mark.parametrize("kind", KINDS)
def test_index_that_names_an_absent_file(tmp_path, kind):
    folder = write(tmp_path / "m", halves(), kind)
    gone = sorted(folder.glob("*-1.*"))[0]
    gone.unlink()
    assert f"1 of the 2 files in {SINGLE[kind]}.index.json are not there: {gone.name}" in error_of(
        folder
    )


@pytest.mark.parametrize(
    "name", ["../model-0.safetensors", "/etc/model.safetensors", "a/b.safetensors", "x.bin", ".."]
)
def test_index_that_leads_elsewhere(tmp_path, name):
    folder = write(tmp_path / "m", halves(), **{"old.count": name})
    assert "old.count must be in a .safetensors file of this folder, got" in error_of(folder)


def test_index_with_a_key_that_its_file_lacks(tmp_path):
    folder = write(tmp_path / "m", halves(), **{"old.extra": "model-0.safetensors"})
    assert "has no old.extra, which model.safetensors.index.json lists" in error_of(folder)


def test_index_that_names_another_file(tmp_path):
    folder = write(tmp_path / "m", halves(), **{"old.count": "model-0.safetensors"})
    assert "holds old.count, for which model.safetensors.index.json has model-0" in error_of(folder)


def test_tensor_in_two_files(tmp_path):
    shards = halves()
    shards[1]["old.first.q"] = torch.zeros(1)
    folder = write(tmp_path / "m", shards, **{"old.first.q": "model-0.safetensors"})
    assert "old.first.q is in both model-0.safetensors and model-1.safetensors" in error_of(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object, got list"),
        ("{}", "must hold a weight_map"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' comes twice"),
        ('{"weight_map": {"a": 3}}', "a must be in a .safetensors file of this folder, got 3"),
    ],
)
def test_damaged_index(tmp_path, content, expected):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert expected in error_of(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [0.02, 0.5, 0.99])
def test_truncated_file(tmp_path, kind, cut):
    file = write(tmp_path / "m", [tensors()], kind) / SINGLE[kind]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * cut)])
    assert f"{file}: truncated" in error_of(file.parent)


class Payload:
    """A pickle that runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path):
    torch.save({"a": Payload(tmp_path / "trace")}, tmp_path / "pytorch_model.bin")
    assert "needs more than tensors" in error_of(tmp_path)
    assert not (tmp_path / "trace").exists()


def test_plain_pickle(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    assert "not written by torch.save" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "must hold a dict of tensors, got list"),
        ({"model": {"a": torch.zeros(1)}}, "must hold tensors by name, got dict at 'model'"),
    ],
)
def test_bin_of_something_else(tmp_path, content, expected):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert expected in error_of(tmp_path)


def test_folders_without_or_with_too_many_weights(tmp_path):
    assert "no such model folder" in error_of(tmp_path / "gone")
    assert "no weights; none of model.safetensors" in error_of(tmp_path)
    write(tmp_path, [tensors()])
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "both model.safetensors and model.safetensors.index.json" in error_of(tmp_path)


# ---- memory

MEASURE = """
import sys, resource, torch
from pathlib import Path
from torch import nn
from prunevid_kernels.adapters.checkpoint.files import open_checkpoint
from prunevid_kernels.adapters.checkpoint.loading import empty_weights, load_weights, rename
folder, size = Path(sys.argv[1]), int(sys.argv[2])
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
with empty_weights():
    model = nn.ModuleDict({f"m{i}": nn.Linear(size, size, bias=False) for i in range(16)})
checkpoint = open_checkpoint(folder)
(torch.ones(9, 9) @ torch.ones(9, 9)).to(torch.bfloat16)
before = peak()
load_weights(model, checkpoint, [rename("(.*)", r"\\1")], dtype=torch.float32, device=sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("kind", "device"),
    [
        (KINDS[0], "cpu"),
        (KINDS[1], "meta"),
        pytest.param(KINDS[0], "meta", marks=pytest.mark.full),
        pytest.param(KINDS[1], "cpu", marks=pytest.mark.full),
    ],
)
def test_peak_memory_is_the_model_and_one_file(tmp_path, kind, device):
    """Eight files of two tensors. On the meta device, which holds nothing, as on a GPU: the host
    needs one file. A loader that reads everything first would need eight."""
    size, tensor_bytes = 1536, 1536 * 1536 * 4
    shards = [
        {f"m{i}.weight": torch.full((size, size), float(i)) for i in (2 * n, 2 * n + 1)}
        for n in range(8)
    ]
    folder = write(tmp_path / "m", shards, kind)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), str(size), device],
        capture_output=True,
        text=True,
        check=True,
    )
    file_bytes, model_bytes = 2 * tensor_bytes, 16 * tensor_bytes if device == "cpu" else 0
    assert int(done.stdout) <= model_bytes + 1.1 * file_bytes + (4 << 20)
    if device == "cpu":
        assert int(done.stdout) >= model_bytes, "the measure itself works"
