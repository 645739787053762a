"""ST-LLM: EVA-ViT-g, a Q-Former that reads the question, and Llama (Vicuna 7B)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..record import Evaluation, Family, Later, Prompt
from ..shape import DecoderShape, ModelShape, Size, VisionShape, encoder_layer_macs

NUM_FRAMES = 16
CONVERSATION_FRAMES = 64  # of the conversation model, which passes on the tokens of 16
EVA = VisionShape(
    width=1408, mlp=6144, layers=39, heads=16, image_px=224, patch_px=14, has_class_token=True
)
BRANCH_LAYERS = 3
NUM_QUERIES = 32
_VICUNA_7B = DecoderShape(4096, 11008, 32, 32, 32, 32001)


@dataclass(frozen=True)
class QFormerShape:
    """A Q-Former; every ``cross_every``-th layer looks at the patches."""

    width: int
    mlp: int
    layers: int
    heads: int
    cross_every: int = 2

    def config_values(self) -> dict[str, int]:
        """The same dimensions under the names of a transformers config."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "cross_attention_frequency": self.cross_every,
        }


QFORMER = QFormerShape(width=768, mlp=3072, layers=12, heads=12)


def _recognises(config: Mapping[str, Any], keys: Callable[[], Collection[str]]) -> bool:
    """A config.json that says "llama" leaves it to the names of the tensors."""
    kind = config.get("model_type")
    return (
        kind in ("st_llm", "st_llm_hf")
        or "STLLMForCausalLM" in (config.get("architectures") or [])
        or (kind == "llama" and any("stllm_model." in key for key in keys()))
    )


def model_shape(
    decoder: DecoderShape,
    vision: VisionShape,
    qformer: QFormerShape,
    *,
    branch_layers: int,
    queries: int,
) -> ModelShape:
    """EVA-ViT-g with a branch over time, the Q-Former, and a linear layer.

    Two approximations, both of parts below a hundredth of the whole: the Q-Former's question tokens
    are not counted, since their number is another tokenizer's; a block of the branch is counted as
    a block of the tower and one linear layer more.
    """
    branch = encoder_layer_macs(vision.tokens, vision.width, vision.mlp)
    branch += 5 * vision.tokens * vision.width**2  # over time, and the linear layer after it
    cross = 2 * queries * qformer.width**2 + 2 * vision.tokens * vision.width * qformer.width
    cross += 2 * queries * vision.tokens * qformer.width
    encoder = qformer.layers * encoder_layer_macs(queries, qformer.width, qformer.mlp)
    encoder += -(-qformer.layers // qformer.cross_every) * cross
    return ModelShape(
        family="st_llm",
        decoder=decoder,
        frames=NUM_FRAMES,
        tokens_per_frame=queries,
        vision_macs=vision.frame_macs() + branch_layers * branch,
        projector_macs=encoder + queries * qformer.width * decoder.hidden_size,
        importance_macs=queries**2 * qformer.width,
        key_width=qformer.width,
    )


def _shape(config: Any) -> ModelShape:
    qformer = config.qformer_config
    return model_shape(
        DecoderShape.from_text_config(config.text_config),
        VisionShape.of(config.vision_config, has_class_token=True),
        QFormerShape(
            width=qformer.hidden_size,
            mlp=qformer.intermediate_size,
            layers=qformer.num_hidden_layers,
            heads=qformer.num_attention_heads,
            cross_every=qformer.cross_attention_frequency,
        ),
        branch_layers=config.adapter_layers,
        queries=config.num_query_tokens,
    )


def _choice_prompt(question: str, instruction: str) -> Prompt:
    """The instruction is part of what the human says."""
    return Prompt(f"{instruction}{question}\nOnly give the best option.\n", None, "Best option:(")


FAMILY = Family(
    name="st_llm",
    title="ST-LLM",
    model_types=("st_llm",),
    recognises=_recognises,
    adapter=Later(__name__, "adapter:StLlmAdapter"),
    read_config=Later(__name__, "checkpoint:read_config"),
    check=Later(__name__, "model:StLlm.check_pretrained"),
    load=Later(__name__, "model:StLlm.from_pretrained"),
    processor=Later(__name__, "processor:StLlmProcessor.from_pretrained"),
    random_model=Later(__name__, "random_model:random_st_llm"),
    shape=_shape,
    sizes=(
        Size(
            "st-llm-7b",
            model_shape(_VICUNA_7B, EVA, QFORMER, branch_layers=BRANCH_LAYERS, queries=NUM_QUERIES),
        ),
    ),
    num_frames=NUM_FRAMES,
    sampling="between_borders",
    prompt_tokens=(0, 40),
    choice_prompt=_choice_prompt,
    evaluations={
        # By the rule of MVBench's authors. ST-LLM's own evaluation takes one frame a second, 4 to
        # 16 of them; here it is the model's 16 for every video, as for the other families.
        "mvbench": Evaluation(sampling="half_segments"),
        "vcgbench": Evaluation(
            frames=CONVERSATION_FRAMES,
            generation={"max_new_tokens": 300, "num_beams": 5, "repetition_penalty": 1.5},
        ),
    },
    prunevid_share=0.151,
    prumerge_share=0.557,
    flops_text_tokens=25,
    processor_options=("qformer_tokenizer",),
    generation=Later(__name__, "generation:generation_options"),
    answer_end="###",  # which begins the next turn
    lacks={"grid": "a frame's tokens are queries, which stand for no part of it"},
)
