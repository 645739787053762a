"""Equal terms: from a share of the visual tokens to the options that keep it.

The share is the mean over the decoder's layers, so that a method that drops tokens before the
decoder and one that drops them inside it cost the same. Of n layers, the first e (those up to the
selecting one) run on all merged tokens and the others on the part q of them that is selected: the
share is then ``b (e + q (n - e)) / n`` for a merged share b.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .record import Knob, Terms


def mean_factor(early: int, kept: float, num_layers: int) -> float:
    """The mean over layers of ``early`` times 1 and ``kept`` for each of the others."""
    return (early + kept * (num_layers - early)) / num_layers


def merged_share(terms: Terms, kept: float, name: str) -> float:
    """b, of which ``kept`` is left after the selecting layer.

    Raises:
        ValueError: it would be more than all tokens.
    """
    share = terms.share / mean_factor(terms.layer + 1, kept, terms.num_layers)
    if share > 1 + 1e-9:
        most = mean_factor(terms.layer + 1, kept, terms.num_layers)
        raise ValueError(
            f"{name} keeps at most a share of {most:.2f} with its selection after layer "
            f"{terms.layer} of {terms.num_layers}; it cannot keep {terms.share:g}"
        )
    return min(1.0, share)


def selected_share(terms: Terms, early: int, name: str) -> float:
    """q, where the first ``early`` layers run on every token.

    Raises:
        ValueError: those alone are more than the share.
    """
    if early >= terms.num_layers or terms.share * terms.num_layers <= early:
        least = early / terms.num_layers
        raise ValueError(
            f"{name} runs {early} of {terms.num_layers} layers on every token, a share of "
            f"{least:.2f}; it cannot keep {terms.share:g}"
        )
    return (terms.share * terms.num_layers - early) / (terms.num_layers - early)


def budget_with_selection(name: str) -> Knob:
    """PruneVid's: the merge to a budget, then 0.4 of it after the selecting layer, of the video as
    a whole. Group by group, ``int(size * 0.4)`` of groups of one or two tokens would be none."""

    def knob(terms: Terms) -> Mapping[str, Any]:
        budget = merged_share(terms, 0.4, name)
        return {"budget": budget, "keep_ratio": 0.4, "selection": "global", "layer": terms.layer}

    return knob


def budget_then_nothing(terms: Terms) -> Mapping[str, Any]:
    """The same, and nothing after the selecting layer."""
    return {"budget": merged_share(terms, 0.0, "drop_all"), "layer": terms.layer}


def selection_alone(terms: Terms) -> Mapping[str, Any]:
    """PruneVid's selection without its merge."""
    kept = selected_share(terms, terms.layer + 1, "select_only")
    return {"keep_ratio": kept, "selection": "global", "layer": terms.layer}
