"""Which models can be pruned: what is looked at once, when a model is pruned, and the refusal of
what nobody can prune later.

``torch.compile`` runs a prompt as a graph, in which hooks are missing or cannot act, so that it
would run unpruned without a word. Decoding steps do run compiled, as ``generate`` compiles them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import nn

from .cache import RECURRENT
from .interface import ModelAdapter
from .method import PruningMethod


def transformers_model(model: nn.Module) -> nn.Module:
    """The model inside a PEFT wrapper, any other model itself.

    A wrapper hands its calls on to the model's ``forward``, past the hooks of the model itself.

    Raises:
        ValueError: an adapter that adds tokens of its own to the prompt.
    """
    if not hasattr(model, "get_base_model"):
        return model
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"{type(model).__name__} adds tokens of its own to each prompt (prompt learning), so "
            "that videos are not where the inputs say; pruning supports adapters of weights, such "
            "as LoRA"
        )
    return transformers_model(model.get_base_model())  # type: ignore[operator]


def require_uncompiled(modules: Iterable[nn.Module]) -> None:
    """Refuse modules that run compiled.

    Raises:
        ValueError: names the first of them.
    """
    for module in modules:
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            name = type(getattr(module, "_orig_mod", module)).__name__
            raise ValueError(
                f"{name} is compiled (torch.compile or .compile()): a compiled prompt runs without "
                "the hooks that prune it; give the model as it was before, and compile the "
                "decoding steps only, as generate does with a static cache"
            )


def refuse_compiled_prompt() -> NoReturn:
    """End a prompt with videos that torch.compile is tracing.

    Raises:
        RuntimeError: always. A plain ``raise`` would make the tracer run the caller once more
            without tracing, where nothing tells that the decoder will be traced; after a graph
            break it is the caller who gets the error. Where breaks are forbidden, the tracer's own
            error has the text.
    """
    text = (
        "a prompt with videos cannot run inside torch.compile while the model is pruned; compile "
        "the decoding steps only, as generate does with a static cache"
    )
    torch._dynamo.graph_break(msg=text)
    raise RuntimeError(text)


def require_supported_decoder(
    model: nn.Module, decoder: Any, adapter: ModelAdapter, method: PruningMethod
) -> None:
    """Refuse what the engine cannot prune.

    Raises:
        ValueError: another kind of decoder, other attention than full, or a layer that the decoder
            does not have, or to which it still adds visual features.
    """
    kind = decoder.config.model_type
    if kind not in adapter.decoder_types:
        known = " and ".join(adapter.decoder_types)
        raise ValueError(f"pruning supports the text decoders {known}, got {kind}")
    layer_types = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if RECURRENT in layer_types and method.needs_cache:
        raise ValueError(cannot_forget(method.name))
    layer_types -= {RECURRENT}
    if layer_types:
        raise ValueError(f"pruning supports full attention only, the model has {layer_types.pop()}")
    if method.layer is not None and method.layer >= len(decoder.layers):
        raise ValueError(
            f"layer must be less than the model's {len(decoder.layers)} decoder layers, "
            f"got {method.layer}; choose one, as in PruneVidConfig(layer=1); other methods have the"
            " option layer"
        )
    planes = adapter.planes(model)
    if planes is not None and method.layer is not None and method.layer < planes.count:
        raise ValueError(drops_too_early(method.name, method.layer, planes.count))


def cannot_forget(method: str) -> str:
    """Why a method that prunes inside the decoder cannot where layers keep a state."""
    return (
        f"{method} prunes inside the decoder, but the states of this model's linear-attention "
        "layers have seen every token by then and cannot forget one; take a method that prunes "
        "before the decoder only, such as merge_only, which is PruneVid with select=False"
    )


def drops_too_early(method: str, layer: int, planes: int) -> str:
    """Why tokens cannot be dropped at a layer to which the decoder still adds visual features."""
    return (
        f"the decoder adds visual features after each of its first {planes} layers, so tokens can "
        f"be dropped from layer {planes} on: {method} must select at a layer of at least "
        f"{planes}, got {layer}"
    )
