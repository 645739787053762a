"""A model for tests and for benchmarks without a GPU: tiny, random, built in seconds.

A real ``LlavaOnevisionForConditionalGeneration`` at real token counts (12 x 12 a frame after
pooling, as PLLaVA has), with seeded random weights. Its answers mean nothing. What pruning does to
it is real: segments, static patches and clusters depend on the pixels, and the decoder runs on
what is left. For that, features must tell pictures apart as a trained tower's do, which default
initialisation does not give. So patches are seen through random mixtures of smooth waves (colour
and gradients count, pixel noise does not), the tower's layers add only a little to that, and the
projector is shifted and scaled so that each channel has mean 0 and standard deviation 1 over
random pictures; at a spread far from 1 density-peak clustering saturates.

The tokenizer knows single bytes, so that every question can be read, and some plain words; the
generation config lets only the words out, so that every answer can be printed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from prunevid_kernels.adapters import VideoModel
from prunevid_kernels.adapters.families.llava_onevision.processor import (
    LlavaOnevisionFrameProcessor,
)

NAME = "random tiny LLaVA-OneVision"
IMAGE_SIZE_PX = 384
PATCH_PX = 16
NUM_LAYERS = 6
# Selection after a third of the decoder, as the paper's layer 10 is in a 7B model.
SELECTION_LAYER = NUM_LAYERS // 3
DEFAULT_FRAMES = 16

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
WORDS = (
    "a and at away back ball behind big blue bounces bright brown circle corner cut dark day down"
    " falls field first flashes flies from goes grass green grows hexagon hides high hill in is"
    " jumps last left light low moves near night no of off on orange out over pink purple red"
    " returns right rises rolls scene sinks sky slow small square star stays stops sun the then"
    " three to top triangle turns twice two under up wall white yellow yes"
).split()
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_model(seed: int = 0) -> VideoModel:
    """The tiny model with weights drawn from ``seed``, on the CPU in float32."""
    tokenizer = _tokenizer()
    vocabulary = len(tokenizer)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=IMAGE_SIZE_PX,
            patch_size=PATCH_PX,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=vocabulary,
            max_position_embeddings=32768,
            tie_word_embeddings=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced
        model = LlavaOnevisionForConditionalGeneration(config).eval()
    _draw_weights(model, torch.Generator().manual_seed(seed))
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    generation = model.generation_config
    generation.eos_token_id = end_id
    generation.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    generation.do_sample = False
    generation.repetition_penalty = 1.3  # a random decoder would otherwise say one word for ever
    words = {tokenizer.convert_tokens_to_ids("Ġ" + word) for word in WORDS}
    generation.suppress_tokens = [i for i in range(vocabulary) if i not in words and i != end_id]
    half = (0.5, 0.5, 0.5)
    processor = LlavaOnevisionFrameProcessor(config, tokenizer, CHAT_TEMPLATE, half, half)
    return VideoModel(
        model=model,
        processor=processor,
        name=NAME,
        default_frames=DEFAULT_FRAMES,
        is_random=True,
    )


def save_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write the tiny model as a checkpoint folder that ``prunevid run --model`` loads."""
    tiny = build_tiny_model(seed)
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    preprocessing = {
        "image_mean": list(tiny.processor.image_mean),
        "image_std": list(tiny.processor.image_std),
        "size": {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*SPECIAL_TOKENS, *letters, *("Ġ" + word for word in WORDS)]  # Ġ is a space
    vocabulary = {token: i for i, token in enumerate(entries)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>", "<video>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


# ---- weights


@torch.no_grad()
def _draw_weights(
    model: LlavaOnevisionForConditionalGeneration, generator: torch.Generator
) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            _normal(module.weight, 1 / math.sqrt(module.in_features), generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            _normal(module.weight, 1.0, generator)
    tower = model.model.vision_tower
    embeddings = next(m for m in tower.modules() if hasattr(m, "patch_embedding"))
    embeddings.patch_embedding.weight.copy_(_smooth_filters(96, generator))
    embeddings.patch_embedding.bias.zero_()
    embeddings.position_embedding.weight.copy_(0.5 * _position_waves(96, generator))
    for name, module in tower.named_modules():
        if name.endswith(("out_proj", "fc2")):
            module.weight.mul_(0.15)  # a token stays mostly its own patch
    for layer in model.model.language_model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.mul_(1.4)  # logits with a spread of about 2: attention has peaks
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.mul_(0.5)
    _normal(model.model.image_newline, 1.0, generator)
    _standardise_projector(model, generator)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _smooth_filters(channels: int, generator: torch.Generator) -> Tensor:
    """[channels, 3, PATCH_PX, PATCH_PX]: random mixtures of the six lowest cosine waves."""
    position = (torch.arange(PATCH_PX) + 0.5) / PATCH_PX
    waves = [torch.cos(math.pi * k * position) for k in range(3)]
    basis = torch.stack(
        [torch.outer(waves[v], waves[u]) for v in range(3) for u in range(3) if u + v <= 2]
    )
    weights = torch.randn(channels, 3, len(basis), generator=generator)
    return torch.einsum("cxb,bhw->cxhw", weights, basis) * (2 / PATCH_PX**2)


def _position_waves(channels: int, generator: torch.Generator) -> Tensor:
    """[patches, channels]: slow waves over the frame, so that neighbours are alike."""
    side = IMAGE_SIZE_PX // PATCH_PX
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    frequency = 2 * math.pi * torch.rand(channels, 2, generator=generator)
    phase = 2 * math.pi * torch.rand(channels, generator=generator)
    points = torch.stack([y.flatten(), x.flatten()], dim=1)  # [patches, 2]
    return torch.cos(points @ frequency.T + phase)


def _standardise_projector(
    model: LlavaOnevisionForConditionalGeneration, generator: torch.Generator
) -> None:
    """Fold mean and spread of the features of random pictures into the projector's last layer."""
    coarse = torch.rand(8, 3, 6, 6, generator=generator) * 2 - 1
    pictures = nn.functional.interpolate(coarse, size=IMAGE_SIZE_PX, mode="bicubic").clamp(-1, 1)
    core = model.model
    hidden = core.vision_tower(pictures, output_hidden_states=True).hidden_states[-1]
    features = core.apply_pooling(core.multi_modal_projector(hidden)).flatten(0, 1)
    last = core.multi_modal_projector.linear_2
    std = features.std(dim=0)
    last.weight.div_(std[:, None])
    last.bias.copy_((last.bias - features.mean(dim=0)) / std)
