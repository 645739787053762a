"""What a pruning run is told: one frozen, validated record.

Every number of the method lives here under the name the field uses for it, with the authors'
published value as its default. A value that cannot mean anything is refused on construction, so
nothing further down has to check it again.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from numbers import Integral, Rational, Real
from typing import Any, Literal, TypeGuard

ScoreMode = Literal["nope", "rope"]
SelectionMode = Literal["grouped", "global"]


def scaled_count(count: int, ratio: float) -> int:
    """``int(count * ratio)``: the product in IEEE double precision, cut towards zero.

    This is the rounding of the published method, and it is not the exact product's: ``100 * 0.29``
    gives 28.
    """
    return math.trunc(count * ratio)  # unlike int, it leaves a tracer's numbers open


def budget_tokens(frames: int, tokens_per_frame: int, retain: int | float) -> int:
    """Merged tokens of a video in budget mode, known before any feature exists.

    Args:
        frames: T >= 1.
        tokens_per_frame: N >= 1.
        retain: a number of tokens (int >= 1) or a share of ``T * N`` (float in (0, 1]), cut towards
            zero.

    Returns:
        At least 1, at most ``T * N``.

    Raises:
        TypeError, ValueError: an argument of a wrong type or range.
    """
    frames = require_count("frames", frames, minimum=1)
    tokens_per_frame = require_count("tokens_per_frame", tokens_per_frame, minimum=1)
    retain = _require_budget("retain", retain)
    total = frames * tokens_per_frame
    wanted = retain if isinstance(retain, int) else scaled_count(total, retain)
    return min(max(1, wanted), total)


@dataclass(frozen=True)
class PruneVidConfig:
    """Hyper-parameters of PruneVid (Huang et al., ACL Findings 2025,
    https://arxiv.org/abs/2412.16117).

    Args:
        tau: static threshold. A patch position of a segment is static when the mean cosine over all
            pairs of its frames is strictly greater; no position is at 1. In (0, 1].
        segment_ratio: frame clusters per frame, gamma in the paper. In (0, 1].
        cluster_ratio: merged tokens per token of a clustered group, beta in the paper. In (0, 1].
        keep_ratio: kept tokens per merged token in the selection, alpha in the paper. In (0, 1].
        layer: 0-based decoder layer whose attention selects tokens. Layers ``0..layer`` run on all
            merged tokens, the layers after it on the kept ones. At least 0, and one that the model
            has.
        num_neighbors: size of the neighbourhood of the density estimate; a point counts as its own
            neighbour. Fewer points than that: all of them. At least 1.
        min_cluster_tokens: groups of at most this many tokens are passed through unclustered. At
            least 1.
        score: ``"nope"`` scores with the un-rotated projections and no mask, as the authors'
            released code does; ``"rope"`` uses the layer's ordinary causal attention, as the
            paper's text says.
        selection: ``"grouped"`` keeps ``int(size * keep_ratio)`` of every group, as the released
            code does; ``"global"`` keeps the best ``int(V * keep_ratio)`` of the whole video.
        budget: merged tokens a video, exactly: a count or a share of its ``T * N`` tokens. ``None``
            (threshold mode): whatever ``cluster_ratio`` gives. At least 1 as an int, in (0, 1] as a
            float.
        merge: False skips the merging of tokens before the LLM (ablation).
        select: False skips the selection inside the LLM (ablation).

    Scalars of numpy are taken, and become Python's own.

    Raises:
        TypeError: a value of the wrong type; the message names the field, what was expected and
            what came.
        ValueError: a value outside its range, likewise.
    """

    tau: float = 0.8
    segment_ratio: float = 0.25
    cluster_ratio: float = 0.5
    keep_ratio: float = 0.4
    layer: int = 10
    num_neighbors: int = 7
    min_cluster_tokens: int = 14
    score: ScoreMode = "nope"
    selection: SelectionMode = "grouped"
    budget: int | float | None = None
    merge: bool = True
    select: bool = True

    def __post_init__(self) -> None:
        for name in ("tau", "segment_ratio", "cluster_ratio", "keep_ratio"):
            self._set(name, require_ratio(name, getattr(self, name)))
        self._set("layer", require_count("layer", self.layer, minimum=0))
        for name in ("num_neighbors", "min_cluster_tokens"):
            self._set(name, require_count(name, getattr(self, name), minimum=1))
        self._set("score", _require_choice("score", self.score, ("nope", "rope")))
        self._set("selection", _require_choice("selection", self.selection, ("grouped", "global")))
        for name in ("merge", "select"):
            self._set(name, _require_switch(name, getattr(self, name)))
        if self.budget is not None:
            self._set("budget", _require_budget("budget", self.budget))

    def _set(self, name: str, value: object) -> None:
        # Scalars of numpy become Python's: the same value must do the same in every implementation.
        object.__setattr__(self, name, value)

    @classmethod
    def reference(cls, **overrides: Any) -> PruneVidConfig:
        """The behaviour of the authors' released code: un-rotated scores, selection group by
        group."""
        return cls(**{"score": "nope", "selection": "grouped", **overrides})

    @classmethod
    def paper(cls, **overrides: Any) -> PruneVidConfig:
        """The behaviour that the paper's text describes: causal attention scores, one global
        top-k."""
        return cls(**{"score": "rope", "selection": "global", **overrides})

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> PruneVidConfig:
        """Build a config from parsed JSON or YAML.

        Raises:
            ValueError: an unknown key; the message lists the known ones.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown config key {unknown[0]!r}; known keys: {', '.join(known)}")
        return cls(**values)


def require_ratio(name: str, value: Any) -> float:
    """``value`` as a float in (0, 1]."""
    if type(value) is float and 0.0 < value <= 1.0:  # numbers' abstract classes are slow
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or _is_exact_fraction(value):
        raise TypeError(f"{name} must be a number in (0, 1], got {_shown(value)}")
    number: Any = value  # Real has no order that a type checker knows
    if not 0 < number <= 1:  # false for NaN
        raise ValueError(f"{name} must be in (0, 1], got {_shown(value)}")
    return float(value)


def _is_exact_fraction(value: object) -> bool:
    # The published method cuts products of floats, and a fraction's would be cut elsewhere.
    return isinstance(value, Rational) and not isinstance(value, Integral)


MAX_COUNT = 2**31 - 1


def require_count(name: str, value: object, *, minimum: int) -> int:
    """``value`` as an int in [minimum, MAX_COUNT]."""
    if type(value) is int and minimum <= value <= MAX_COUNT:
        return value
    if _is_symbolic(value):  # torch.export keeps a length open; what it stands for is not known yet
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer >= {minimum}, got {_shown(value)}")
    count = int(value)
    if count < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {_shown(value)}")
    if count > MAX_COUNT:
        raise ValueError(f"{name} must be at most {MAX_COUNT}, got {_shown(value)}")
    return count


def _is_symbolic(value: object) -> TypeGuard[int]:
    """Whether ``value`` is a tracer's integer. Without torch, which this module does not load."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.SymInt)


def _require_budget(name: str, value: object) -> int | float:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return require_count(name, value, minimum=1)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a count or a share in (0, 1], got {value!r}")
    return require_ratio(name, value)


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def _require_switch(name: str, value: object) -> bool:
    is_numpy_bool = getattr(getattr(value, "dtype", None), "kind", "") == "b"
    if isinstance(value, bool) or (is_numpy_bool and getattr(value, "ndim", None) == 0):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def _shown(value: object) -> str:
    """``repr``, but for integers too long for a line; Python refuses to write out some of them."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)
