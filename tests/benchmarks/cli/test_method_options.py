"""Options that the commands share: methods by ``--method`` and ``--methods``, the line of JSON, and
what ``prunevid methods`` says of each method's own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from prunevid_kernels.adapters import PruningMethod
from prunevid_kernels.adapters.methods.record import option_texts, pruning_method, record_of
from prunevid_kernels.adapters.methods.registry import METHODS
from prunevid_kernels.benchmarks.cli import app
from prunevid_kernels.benchmarks.support.terminal import named_methods

FLOPS = ["flops", "--model", "llava-onevision-7b"]


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def summary_of(done):
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("option", ["--method", "--methods"])
def test_flops_of_all_methods_is_flops_without_a_choice(option):
    assert summary_of(call(*FLOPS, option, "all")) == summary_of(call(*FLOPS))
    chosen = summary_of(call(*FLOPS, option, "evs, full", option, "fastv"))
    assert list(chosen["methods"]) == ["evs", "full", "fastv"]


@pytest.mark.parametrize("command", ["flops", "bench latency", "eval synthetic"])
def test_the_commands_name_methods_alike(command):
    # Typer draws option names apart where a terminal has colours.
    text = re.sub(r"\x1b\[[0-9;]*m", "", call(*command.split(), "--help").stdout)
    assert "--method" in text and "--methods" in text and "or all" in " ".join(text.split())


def test_names_are_split_and_all_is_everything():
    assert named_methods(["evs, fastv", "full"]) == ["evs", "fastv", "full"]
    assert named_methods(None) is None and named_methods(["evs", "all"]) is None
    done = call("bench", "latency", "--methods", "full,nothing")
    assert done.exit_code == 2 and "'nothing'" in done.stderr


def test_token_counts_of_a_published_share_are_said_to_be_means():
    rows = summary_of(call(*FLOPS, "--methods", "full,evs"))["methods"]
    assert rows["full"]["are_means"] is False
    counts = rows["evs"]["visual_tokens_per_layer"]
    assert rows["evs"]["are_means"] is any(count != int(count) for count in counts)
    odd = summary_of(call(*FLOPS, "--methods", "evs", "--visual", "1001"))["methods"]["evs"]
    assert odd["are_means"] is True and "the mean over videos" in call(*FLOPS).stdout
    given = summary_of(call(*FLOPS, "--methods", "evs", "--merged", "250"))["methods"]["evs"]
    assert given["are_means"] is False and set(given["visual_tokens_per_layer"]) == {250}


def test_the_line_of_json_can_be_left_out():
    with_line, without = call("methods", "--json"), call("methods", "--no-json")
    assert summary_of(with_line) == summary_of(call("methods")), "stdout is no terminal here"
    assert with_line.stdout.splitlines()[:-1] == without.stdout.splitlines()
    assert not any(line.startswith("{") for line in without.stdout.splitlines())


def test_every_option_of_every_method_is_explained():
    rows = summary_of(call("methods"))["methods"]
    for name, method in METHODS.items():
        assert set(rows[name]["option_texts"]) == set(method.defaults), name
        assert all(rows[name]["option_texts"].values())
    text = call("methods", "--no-json").stdout
    assert "        k=0.7: share of the tokens that is dropped from each frame" in text
    assert text.count("static threshold") == 1 and "as prunevid's: tau=0.8," in text


def test_texts_are_those_of_the_docstring():
    @pruning_method("x", changes=("drops",))
    @dataclass(eq=False)
    class Mine(PruningMethod):
        """Mine.

        Args:
            ratio: the share, over
                two lines.
            plain: a word: and a colon.

        Raises:
            ValueError: never.
        """

        ratio: float = 0.5
        plain: str = "a"
        untold: int = 1
        name = "mine"

    assert record_of(Mine).option_texts == {
        "ratio": "the share, over two lines.",
        "plain": "a word: and a colon.",
    }
    assert option_texts(type("Bare", (), {})) == {}
