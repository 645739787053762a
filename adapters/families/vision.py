"""What several families' vision sides have in common: transformers' towers, and frames that are
cut to their middle."""

from __future__ import annotations

from torch import nn


def encoder_layers(tower: nn.Module) -> nn.ModuleList:
    """The layers of a transformers vision tower; some versions wrap them once more.

    Raises:
        ValueError: it has none.
    """
    for module in tower.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList):
            return layers
    raise ValueError(f"{type(tower).__name__} has no encoder layers")
