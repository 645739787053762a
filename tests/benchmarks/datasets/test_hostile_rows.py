"""Question files with values of another kind at any place: questions, a problem, or one error."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datas_tree as tree
import pytest

from prunevid_kernels.benchmarks.accuracy.evaluation import load_questions
from prunevid_kernels.benchmarks.datasets.sample import DatasetError

pytestmark = pytest.mark.one_version

WRONG = [None, 0, -1, True, "x", "", [], {}, [1], {"a": 1}, 1.5, float("nan"), 10**30, 10**400]
WRONG += ["\ud800", "../../etc", "/etc/passwd", "x" * 5000, "a\0b", "\x1b[31m"]
FILES = {
    "mvbench": "MVBench/json/action_sequence.json",
    "videomme": "Video-MME/json/short.json",
    "egoschema": "ego_schema/json/egoschema_fullset.json",
    "vcgbench": "VCGBench/Zero_Shot_QA/Benchmarking_QA/consistency_qa.json",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree.all_benchmarks(tmp_path_factory.mktemp("data") / "DATAS")


def places(rows: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    for index, row in enumerate(rows):
        for name in row:
            yield index, name


@pytest.mark.parametrize("benchmark", FILES)
def test_values_of_another_kind(root, benchmark):
    file, draw, noticed = root / FILES[benchmark], random.Random(benchmark), 0
    whole = file.read_text()
    try:
        for index, name in draw.choices(list(places(json.loads(whole))), k=100):
            rows = json.loads(whole)
            rows[index][name] = draw.choice(WRONG)
            file.write_text(json.dumps(rows))
            try:
                found = load_questions(benchmark, root, with_hidden=True)
            except DatasetError as error:
                assert "\n" not in str(error)
                noticed += 1
            else:
                noticed += bool(found.problems)
                ids = [sample.id for sample in found.samples]
                assert len(set(ids)) == len(ids)
    finally:
        file.write_text(whole)
    assert noticed > 20


def test_two_questions_with_one_id_are_no_two_questions(root):
    """One answer would be written down for both, and counted once."""
    file = root / FILES["egoschema"]
    whole = file.read_text()
    try:
        rows = json.loads(whole)
        rows[1]["q_uid"] = rows[0]["q_uid"]
        file.write_text(json.dumps(rows))
        (problem,) = load_questions("egoschema", root, with_hidden=True).problems
        assert f"row 1: a second question with the id {rows[0]['q_uid']!r}" in problem
    finally:
        file.write_text(whole)


def test_a_byte_order_mark_and_deep_nesting(root):
    file = root / FILES["egoschema"]
    whole = file.read_bytes()
    try:
        file.write_bytes(b"\xef\xbb\xbf" + whole)
        assert load_questions("egoschema", root, with_hidden=True).samples
        file.write_text("[" * 10**5)
        with pytest.raises(DatasetError, match="not valid JSON: nested too deeply"):
            load_questions("egoschema", root)
    finally:
        file.write_bytes(whole)
