"""What is said of a pruning method beside its code: options, needs, and the knob that sets how much
it keeps.

A class says it with :func:`pruning_method` above it, ours as well as anybody's. The record stays
with the class: nothing is entered anywhere by importing a module, and which methods there are is
for :mod:`.registry` and for entry points to say.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from ..engine.method import PruningMethod

Need: TypeAlias = Literal["tower", "question", "grid"]
Change: TypeAlias = Literal["drops", "merges", "selects", "compresses"]
# What the words mean, for people.
NEEDS: dict[Need, str] = {
    "tower": "the vision tower's attention",
    "question": "the question's embeddings",
    "grid": "a grid of tokens",
}
CHANGES: dict[Change, str] = {
    "drops": "drops tokens before the decoder",
    "merges": "merges tokens before the decoder",
    "selects": "drops tokens after a decoder layer",
    "compresses": "cuts each layer's cache",
}


@dataclass(frozen=True)
class Terms:
    """On what videos and in what model a share of the tokens is to be kept.

    Attributes:
        share: of the visual tokens, the mean over the decoder's layers.
        num_layers: of the decoder.
        frames: T, of each video.
        layer: the decoder layer after which a method with such an option selects.
    """

    share: float
    num_layers: int
    frames: int
    layer: int


# Options that keep the share of the terms; ValueError where there are none.
Knob: TypeAlias = Callable[[Terms], Mapping[str, Any]]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        summary: one line for people.
        defaults: the options it takes, with their default values.
        build: makes it from all of its options.
        needs: what it needs besides the tokens, of :data:`NEEDS`.
        changes: what it does to them, of :data:`CHANGES`.
        knob: how it keeps a share of the tokens; None where that cannot be set.
        knob_text: the same in words.
        option_texts: what options mean, as :func:`option_texts` finds it.
    """

    summary: str
    defaults: Mapping[str, Any]
    build: Callable[..., PruningMethod]
    needs: Sequence[Need] = ()
    changes: Sequence[Change] = ()
    knob: Knob | None = None
    knob_text: str = "none"
    option_texts: Mapping[str, str] = field(default_factory=dict)


def option_defaults(cls: type) -> dict[str, Any]:
    """The fields of a dataclass of options, with their defaults.

    Raises:
        TypeError: no dataclass, or an option without a default.
    """
    if not is_dataclass(cls):
        raise TypeError(f"{cls.__name__} must be a dataclass, whose fields are the options")
    options = [item for item in fields(cls) if item.init]
    for item in options:
        if item.default is MISSING:
            raise TypeError(f"option {item.name} of {cls.__name__} must have a plain default")
    return {item.name: item.default for item in options}


def option_texts(cls: type) -> dict[str, str]:
    """What the arguments of a class mean, by the section ``Args:`` of its docstring; those that it
    does not name are not there."""
    lines = iter((inspect.getdoc(cls) or "").splitlines())
    for line in lines:
        if line == "Args:":
            break
    texts: dict[str, str] = {}
    name = ""
    for line in lines:
        if not line.startswith("    "):
            break
        found = re.match(r"    (\w+): (.*)", line)
        if found:
            name = found[1]
            texts[name] = found[2]
        elif name:
            texts[name] += " " + line.strip()
    return texts


MethodClass = TypeVar("MethodClass", bound=type[PruningMethod])


def pruning_method(
    summary: str,
    *,
    changes: Sequence[Change],
    needs: Sequence[Need] = (),
    knob: str | Knob | None = None,
    knob_text: str = "",
) -> Callable[[MethodClass], MethodClass]:
    """Say of a dataclass of options, a subclass of ``PruningMethod``, what a method is.

    Args:
        summary: one line for people.
        changes: see :class:`Method`.
        needs: see :class:`Method`.
        knob: the option that is a share of the tokens to keep, or a function from :class:`Terms` to
            options; None: the share cannot be set.
        knob_text: a function in words.

    Raises:
        TypeError: (from the decorator) a class that is none such, or has no name of its own.
        ValueError: a word for ``needs`` or ``changes`` that is not known; (from the decorator) a
            knob that is no option of the class.
    """
    for name, words, known in (("needs", needs, NEEDS), ("changes", changes, CHANGES)):
        for word in words:
            if word not in known:
                raise ValueError(f"{name} must be of {', '.join(known)}; got {word!r}")

    def decorate(cls: MethodClass) -> MethodClass:
        if not (isinstance(cls, type) and issubclass(cls, PruningMethod)):
            raise TypeError(f"a pruning method must be a subclass of PruningMethod, got {cls!r}")
        if "name" not in vars(cls):
            raise TypeError(f"{cls.__name__} must have a name: the attribute `name = ...`")
        defaults = option_defaults(cls)
        find, text = knob, knob_text
        if isinstance(knob, str):
            if knob not in defaults:
                known = ", ".join(defaults) or "none"
                raise ValueError(f"knob must be an option of {cls.__name__} ({known}), got {knob}")
            find, text = _by_share(knob), f"{knob} = share"
        assert not isinstance(find, str)
        texts = {name: text for name, text in option_texts(cls).items() if name in defaults}
        record = Method(
            summary, defaults, cls, tuple(needs), tuple(changes), find, text or "none", texts
        )
        setattr(cls, _ATTRIBUTE, record)
        return cls

    return decorate


_ATTRIBUTE = "_method_record"


def _by_share(option: str) -> Knob:
    return lambda terms: {option: terms.share}


def record_of(cls: type[PruningMethod]) -> Method:
    """What :func:`pruning_method` was told of a class.

    Raises:
        TypeError: nothing.
    """
    record = vars(cls).get(_ATTRIBUTE) if isinstance(cls, type) else None
    if not isinstance(record, Method):
        raise TypeError(f"{cls!r} must be a class under the decorator pruning_method")
    return record
