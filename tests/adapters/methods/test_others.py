"""Methods of other projects: by a file, a module, or an entry point."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from paths import ROOT
from tiny_models import question

from prunevid_kernels.adapters import PruningMethod, apply_method, pruning_method
from prunevid_kernels.adapters.methods import others
from prunevid_kernels.adapters.methods.record import Terms
from prunevid_kernels.adapters.methods.registry import build_method, find_method, method_names


@pytest.fixture
def file(tmp_path):
    """The page's own example, as a file."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- runs -->\n```python\n(.*?)^```", page, re.M | re.S)
    path = tmp_path / "unusual.py"
    path.write_text(example[1])
    assert len(example[1].splitlines()) <= 40
    return path


def entry_points(monkeypatch, **points):
    found = [metadata.EntryPoint(name, value, others.GROUP) for name, value in points.items()]
    monkeypatch.setattr(others.metadata, "entry_points", lambda group: found)


def test_a_method_in_a_file(file, model):
    place = f"{file}:Unusual"
    with apply_method(model, place, {"ratio": 0.5}) as handle:
        model(**question(frames=3))
    call = handle.report.last
    assert call.method == "unusual"
    assert call.tokens_kept == int(call.tokens_before * 0.5)
    method = find_method(place)
    assert find_method(place) is method
    assert (method.changes, method.needs, method.knob_text) == (("drops",), (), "ratio = share")
    assert method.knob(Terms(0.3, num_layers=5, frames=8, layer=1)) == {"ratio": 0.3}
    with pytest.raises(ValueError, match="unknown option 'tau' of .*; known options: ratio"):
        build_method(place, {"tau": 1})


def test_an_entry_point(file, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    entry_points(monkeypatch, unusual="unusual:Unusual")
    assert method_names()[-1] == "unusual"
    assert build_method("unusual", {}).ratio == 0.25
    assert build_method("unusual:Unusual", {}).name == "unusual"
    with pytest.raises(ValueError, match="unknown method 'x'; .*fewer_frames, unusual"):
        find_method("x")


def test_entry_points_that_cannot_be(file, monkeypatch):
    entry_points(monkeypatch, fastv="unusual:Unusual")
    with pytest.raises(ValueError, match="entry point fastv = .* not one of the library's own"):
        find_method("x")
    assert find_method("fastv").summary == "FastV"  # what is ours is not theirs to break
    entry_points(monkeypatch, own="json:JSONDecoder")
    with pytest.raises(TypeError, match="must be a class under the decorator pruning_method"):
        find_method("own")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere.py:X", ValueError, "no file nowhere.py"),
        ("no_such_module:X", ValueError, "no module 'no_such_module'"),
        ("json:X", ValueError, "json has no class 'X'"),
        ("json:dumps", TypeError, "must be a class under the decorator"),
    ],
)
def test_places_without_a_method(name, error, message):
    with pytest.raises(error, match=message):
        find_method(name)


def test_a_file_that_fails_says_how_each_time(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise KeyError('mine')\n")
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            find_method(f"{path}:X")


def decorated(
    *, knob="ratio", changes=("drops",), needs=(), body="name = 'x'\n    ratio: float = 1"
):
    source = f"@dataclass(eq=False)\nclass X(PruningMethod):\n    {body}\n"
    names = {}
    exec("from dataclasses import dataclass, field\nfrom prunevid_kernels.adapters import *", names)
    exec(source, names)
    return pruning_method("x", changes=changes, needs=needs, knob=knob)(names["X"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changes": ("burns",)}, ValueError, "changes must be of drops, merges.*; got 'burns'"),
        ({"needs": ("luck",)}, ValueError, "needs must be of tower, question, grid; got 'luck'"),
        ({"knob": "r"}, ValueError, r"knob must be an option of X \(ratio\), got r"),
        ({"body": "ratio: float = 1"}, TypeError, "X must have a name"),
        ({"body": "name = 'x'\n    ratio: list = field(default_factory=list)"}, TypeError,
         "option ratio of X must have a plain default"),
    ],
)  # fmt: skip
def test_declarations_that_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        decorated(**options)


def test_only_dataclasses_of_methods_are_declared():
    declare = pruning_method("x", changes=("drops",))
    with pytest.raises(TypeError, match="must be a subclass of PruningMethod"):
        declare(dict)

    class Plain(PruningMethod):
        name = "plain"

    with pytest.raises(TypeError, match="Plain must be a dataclass"):
        declare(Plain)
    assert decorated(knob=None).name == "x"
