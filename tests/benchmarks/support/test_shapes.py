"""Shapes of JSON values, from the annotations of the dataclasses that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest

from prunevid_kernels.benchmarks.accuracy.run_log import Judgement, Record
from prunevid_kernels.benchmarks.support.shapes import dataclass_shape, require_shape


@dataclass
class Row:
    name: str
    count: int = 0
    share: float | None = None
    found: dict[str, bool | None] = field(default_factory=dict)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)


def test_fields_are_said_once() -> None:
    assert dataclass_shape(Row, costs={str: {"all": float}}) == {
        "name": str,
        "count": int,
        "share": (None, float),
        "found": {str: (None, bool)},
        "costs": {str: {"all": float}},
    }
    for kind in (Record, Judgement):
        assert list(dataclass_shape(kind)) == [item.name for item in fields(kind)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, "row.count must be a count"),
        ({"share": "x"}, "row.share must be null or a number from 0"),
        ({"found": {"a": 1}}, "row.found.a must be null or true or false"),
        ({"costs": {"a": {"b": -1.0}}}, "row.costs.a.b must be a number from 0"),
    ],
)
def test_a_value_of_another_kind_is_found(values: dict[str, object], message: str) -> None:
    require_shape(vars(Row("x")), dataclass_shape(Row), "row")
    with pytest.raises(ValueError, match=message):
        require_shape(vars(Row("x")) | values, dataclass_shape(Row), "row")


def test_a_field_that_json_has_no_kind_for() -> None:
    @dataclass
    class Other:
        when: complex

    Other.__annotations__["when"] = complex  # written in a function, where no name is global
    with pytest.raises(TypeError, match="no shape is known for a field of type .*complex"):
        dataclass_shape(Other)
