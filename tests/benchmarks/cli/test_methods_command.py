"""``prunevid methods``: every method with what it needs, does and takes."""

from __future__ import annotations

import json
from importlib import metadata

from typer.testing import CliRunner

from prunevid_kernels.adapters.methods import others
from prunevid_kernels.adapters.methods.registry import METHODS
from prunevid_kernels.benchmarks.cli import app


def test_methods_are_listed_with_their_needs():
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 0
    rows = json.loads(result.stdout.splitlines()[-1])["methods"]
    assert list(rows) == list(METHODS)
    assert rows["holitom"]["needs"] == ["tower"] and rows["cdpruner"]["needs"] == ["question"]
    assert rows["downsample"]["needs"] == ["grid"] and rows["full"]["knob"] is None
    assert all(row["changes"] for name, row in rows.items() if name != "full")
    assert (
        "evs: Efficient Video Sampling\n    does: drops tokens before the decoder" in result.stdout
    )


def test_a_broken_package_is_named(monkeypatch):
    point = metadata.EntryPoint("mine", "no_such_package:X", others.GROUP)
    monkeypatch.setattr(others.metadata, "entry_points", lambda group: [point])
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 2
    assert "a method of another package cannot be used: No module named" in result.stderr
