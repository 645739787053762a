"""What a JSON value must look like, and where one does not.

Results files are written by this package and read months later, perhaps by another version, perhaps
edited by hand. A value of another kind must not turn into a traceback in the middle of a report, or
into a number that is none.

A shape is ``str``, ``int``, ``float`` or ``bool``; None; a list of one shape; a dict of names to
shapes, all of them needed; ``{str: shape}`` for any names; a tuple of shapes, one of which fits; or
``object`` for anything.
"""

from __future__ import annotations

import math
from dataclasses import fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

Shape = Any


def require_shape(value: Any, shape: Shape, place: str) -> None:
    """Hold a value against a shape.

    Args:
        value: as JSON gives it. Numbers are finite and not negative; bools are no numbers.
        shape: see the module.
        place: what to call the value.

    Raises:
        ValueError: it does not fit; names the place inside the value.
    """
    if isinstance(shape, dict) and isinstance(value, dict):
        for name, part in shape.items():
            if name is str:
                for key, entry in value.items():
                    require_shape(entry, part, f"{place}.{key}")
            elif name not in value:
                raise ValueError(f"{place} has no {name!r}")
            else:
                require_shape(value[name], part, f"{place}.{name}")
    elif isinstance(shape, list) and isinstance(value, list):
        for index, entry in enumerate(value):
            require_shape(entry, shape[0], f"{place}[{index}]")
    elif isinstance(shape, tuple):
        kinds = [part for part in shape if _is_kind(value, part)]
        if not kinds:
            raise _error(value, shape, place)
        require_shape(value, kinds[0], place)
    elif not _is_kind(value, shape):
        raise _error(value, shape, place)


def dataclass_shape(kind: type, **narrower: Shape) -> dict[str, Shape]:
    """The shape of a dataclass's fields, from their annotations.

    Args:
        kind: whose fields are of str, int, float, bool, None, and dicts of names to these.
        **narrower: shapes of fields whose annotations say less than is known of them.

    Raises:
        TypeError: a field of another type.
    """
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return {name: narrower.get(name) or _of_hint(hints[name]) for name in names}


def _of_hint(hint: Any) -> Shape:
    if hint in (str, int, float, bool):
        return hint
    if hint is type(None):
        return None
    if get_origin(hint) is dict and get_args(hint)[0] is str:
        return {str: _of_hint(get_args(hint)[1])}
    if get_origin(hint) in (Union, UnionType):
        # None first, so that no other kind has to be tried on it.
        return tuple(sorted(map(_of_hint, get_args(hint)), key=lambda part: part is not None))
    raise TypeError(f"no shape is known for a field of type {hint}")


def _is_kind(value: Any, shape: Shape) -> bool:
    """Whether the outermost value is of the shape's kind."""
    if shape is None:
        return value is None
    if isinstance(shape, (dict, list)):
        return isinstance(value, type(shape))
    if shape in (int, float):
        if isinstance(value, int) and not isinstance(value, bool):
            return 0 <= value < 2**63
        return shape is float and isinstance(value, float) and math.isfinite(value) and value >= 0
    return isinstance(value, shape)


_NAMES = {str: "a string", int: "a count", float: "a number from 0", bool: "true or false"}


def _error(value: Any, shape: Shape, place: str) -> ValueError:
    return ValueError(f"{place} must be {_name(shape)}, got {value!r:.60}")


def _name(shape: Shape) -> str:
    if isinstance(shape, tuple):
        return " or ".join(map(_name, shape))
    if isinstance(shape, (dict, list)):
        return "an object" if isinstance(shape, dict) else "a list"
    return "null" if shape is None else _NAMES[shape]
