"""Dimensions of a video language model: what its arithmetic, its kernels and a random copy of it
depend on.

Numbers alone: reading a table of them imports neither torch nor transformers. The decoder's FLOPs
are formulas of the benchmarks. What lies before the decoder differs from family to family, so each
family counts its own vision side, out of the two counts that are here.

Counts are multiply-accumulates; norms, activations, softmax and resizing are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LinearAttention:
    """Gated linear attention in some layers of a decoder (gated delta rule).

    Attributes:
        layers: how many have it in place of attention.
        key, value: widths of all heads together.
        head: channels of a key head.
    """

    layers: int
    key: int
    value: int
    head: int


@dataclass(frozen=True)
class DecoderShape:
    """The dimensions of a text decoder.

    Attributes:
        hidden_size: of a token.
        mlp_size: of a layer's MLP; with experts, of those that a token runs through, together.
        num_layers, num_heads, num_kv_heads: of its layers.
        vocab_size: of the head.
        head_size: channels of a head; None: ``hidden_size / num_heads``.
        linear: the layers without attention, if there are any.
    """

    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    head_size: int | None = None
    linear: LinearAttention | None = None

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads if self.head_size is None else self.head_size

    @classmethod
    def from_text_config(cls, config: Any) -> DecoderShape:
        """Read the dimensions from the text config of a transformers model."""
        mlp, experts = None, getattr(config, "num_experts_per_tok", None)
        if experts:  # some have one more that every token runs through
            shared = getattr(config, "shared_expert_intermediate_size", None) or 0
            mlp = config.moe_intermediate_size * experts + shared
        head_size = getattr(config, "head_dim", None)
        if head_size == config.hidden_size // config.num_attention_heads:
            head_size = None
        linear = None
        if "linear_attention" in (getattr(config, "layer_types", None) or ()):
            linear = LinearAttention(
                layers=config.layer_types.count("linear_attention"),
                key=config.linear_num_key_heads * config.linear_key_head_dim,
                value=config.linear_num_value_heads * config.linear_value_head_dim,
                head=config.linear_key_head_dim,
            )
        return cls(
            linear=linear,
            hidden_size=config.hidden_size,
            mlp_size=config.intermediate_size if mlp is None else mlp,
            head_size=head_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
            vocab_size=config.vocab_size,
        )

    def config_values(self) -> dict[str, int]:
        """The same dimensions under the names of a transformers text config."""
        head = {} if self.head_size is None else {"head_dim": self.head_size}
        return {
            **head,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.mlp_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "vocab_size": self.vocab_size,
        }


def encoder_layer_macs(tokens: int, width: int, mlp: int) -> int:
    """One encoder layer: four projections, attention, and an MLP of two matrices."""
    return 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp


@dataclass(frozen=True)
class VisionShape:
    """A vision transformer.

    Attributes:
        width, mlp, layers, heads: of its blocks.
        image_px, patch_px: sides of a frame and of a patch.
        has_class_token: whether it has one token more than patches.
    """

    width: int
    mlp: int
    layers: int
    heads: int
    image_px: int
    patch_px: int
    has_class_token: bool

    @classmethod
    def of(cls, config: Any, *, has_class_token: bool) -> VisionShape:
        """From a transformers vision config."""
        return cls(
            width=config.hidden_size,
            mlp=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            image_px=config.image_size,
            patch_px=config.patch_size,
            has_class_token=has_class_token,
        )

    def config_values(self) -> dict[str, int]:
        """The same dimensions under the names of a transformers vision config."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "image_size": self.image_px,
            "patch_size": self.patch_px,
        }

    @property
    def side(self) -> int:
        """Patches along one side of a frame."""
        return self.image_px // self.patch_px

    @property
    def tokens(self) -> int:
        """Tokens of a frame, the class token included."""
        return self.side**2 + self.has_class_token

    def frame_macs(self) -> int:
        """What one frame costs."""
        embedding = self.tokens * 3 * self.patch_px**2 * self.width
        return embedding + self.layers * encoder_layer_macs(self.tokens, self.width, self.mlp)


@dataclass(frozen=True)
class ModelShape:
    """One model.

    Attributes:
        family: name of its family.
        decoder: its language model.
        frames, tokens_per_frame: of a video in the language model, as published.
        vision_macs: what the vision tower costs a frame.
        projector_macs: what comes between it and the language model costs a frame.
        importance_macs: what LLaVA-PruMerge+ computes of a frame's attention.
        key_width: channels of the keys that it compares.
        planes: how many of the decoder's first layers add features of the tower to visual tokens,
            so that none can be dropped before the last of them.
    """

    family: str
    decoder: DecoderShape
    frames: int
    tokens_per_frame: int
    vision_macs: int
    projector_macs: int
    importance_macs: int
    key_width: int
    planes: int = 0

    @property
    def visual_tokens(self) -> int:
        return self.frames * self.tokens_per_frame


@dataclass(frozen=True)
class Size:
    """A published size of a family, under its one name in commands, results and tables.

    Attributes:
        name: what commands call it, a checkpoint at hand or not.
        shape: its dimensions.
        layer: PruneVid selects at the end of this 0-based decoder layer.
    """

    name: str
    shape: ModelShape
    layer: int = 10


def grid_shape(
    family: str,
    decoder: DecoderShape,
    grid: tuple[int, int, int],
    *,
    width: int,
    patch_px: int,
    layers_macs: int,
    mergers: int = 1,
) -> ModelShape:
    """A model whose tower makes one frame of tokens of two frames of pixels, a token of 2 x 2
    patches by a merger of two matrices.

    Args:
        family: its name.
        decoder: of the language model.
        grid: T, rows and columns of a video's tokens.
        width: of the tower.
        patch_px: side of a patch.
        layers_macs: of the tower's layers, for one frame of tokens.
        mergers: how many there are; more than one where the decoder adds features of earlier
            layers.
    """
    tokens = grid[1] * grid[2]
    patches = 4 * tokens
    return ModelShape(
        family=family,
        decoder=decoder,
        frames=grid[0],
        tokens_per_frame=tokens,
        vision_macs=patches * 2 * 3 * patch_px**2 * width + layers_macs,
        projector_macs=mergers * tokens * (4 * width) * (4 * width + decoder.hidden_size),
        importance_macs=patches**2 * width,
        key_width=width,
        planes=mergers - 1,
    )
