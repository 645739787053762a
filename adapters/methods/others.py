"""Methods that other projects bring: by an entry point of the group ``prunevid.methods``, or by the
file or module that a name points to.

An entry point names a class under the decorator :func:`~.record.pruning_method`. Nothing is
imported until its method is asked for, so a broken package breaks nothing but itself, and says so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from .record import Method, record_of

GROUP = "prunevid.methods"


def entry_points(taken: Collection[str]) -> dict[str, metadata.EntryPoint]:
    """The methods of installed packages, by name, in order of their names.

    Args:
        taken: names that are the library's own.

    Raises:
        ValueError: a name that is taken, or that two packages give.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in taken:
            raise ValueError(
                f"the entry point {point.name} = {point.value} of {GROUP} must have a name that is "
                "not one of the library's own methods"
            )
        if point.name in found and found[point.name].value != point.value:
            raise ValueError(
                f"two entry points of {GROUP} have the name {point.name}: "
                f"{found[point.name].value} and {point.value}"
            )
        found[point.name] = point
    return found


def method_of(point: metadata.EntryPoint) -> Method:
    """The method that an entry point names.

    Raises:
        TypeError: it names something else.
    """
    return record_of(point.load())


def method_at(place: str) -> Method:
    """The method at ``FILE.py:CLASS`` or ``MODULE:CLASS``.

    Raises:
        ValueError: no such file, module or class.
        TypeError: a class that is no method.
    """
    source, _, name = place.rpartition(":")
    module = _module_of(source)
    if not hasattr(module, name):
        raise ValueError(f"{source} has no class {name!r}")
    return record_of(getattr(module, name))


def _module_of(source: str) -> ModuleType:
    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"no module {source!r}: {error}") from error
    path = Path(source).resolve()
    if not path.is_file():
        raise ValueError(f"no file {source}")
    # Loaded once: a class has to be the same each time that its method is asked for.
    key = f"prunevid_method:{path}"
    if key not in sys.modules:
        spec = spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[key] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]
