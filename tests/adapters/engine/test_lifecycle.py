"""The model is clean after every end that a pruned run can come to, and says no where it must."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace

import pytest
import tiny_models
import torch
from tiny_models import CONFIG, clip, generate, left_pad, question, text_tokens, video_tokens
from transformers import LlavaOnevisionForConditionalGeneration, StaticCache
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    QuantizedLayer,
)

from prunevid_kernels import PruneVidConfig, merge_videos
from prunevid_kernels.adapters import NothingPrunedWarning, prune, unprune
from prunevid_kernels.adapters.engine.engine import Engine
from prunevid_kernels.adapters.methods import prunevid


def logits_of(model, inputs=None) -> torch.Tensor:
    return model(**(inputs or question())).logits


# ------------------------------------------------------------------------------ clean ends


def test_handle_without_a_with_block(model):
    before = logits_of(model)
    handle = prune(model, CONFIG)
    assert logits_of(model).shape[1] < before.shape[1]
    handle.remove()
    assert logits_of(model).equal(before)
    handle.remove()
    assert handle.report.last.kind == "pruned"


def test_model_whose_handle_was_lost(model):
    before = logits_of(model)
    assert not unprune(model)
    prune(model, CONFIG)
    assert not logits_of(model).equal(before)
    assert unprune(model)
    assert logits_of(model).equal(before)
    assert not unprune(model)
    with prune(model, CONFIG) as handle:
        logits_of(model)
    assert handle.report.last.kind == "pruned"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["vision_tower", "layers.0", "layers.1", "layers.3", "norm"])
def test_error_in_the_middle_of_a_prompt(model, where, error):
    """Ctrl-C too, for which modules run no hooks at all."""
    before, text = logits_of(model), {"input_ids": torch.tensor([text_tokens(6)])}
    text_before = logits_of(model, text)
    core = model.model
    module = core.vision_tower if where == "vision_tower" else core.language_model
    if where != "vision_tower":
        module = module.get_submodule(where)

    def fail(*args: object) -> None:
        raise error

    handle = prune(model, CONFIG)
    pruned = logits_of(model)
    failing = module.register_forward_hook(fail)
    with pytest.raises(error):
        logits_of(model)
    failing.remove()
    assert logits_of(model, text).equal(text_before), "a prompt without video was touched"
    assert logits_of(model).equal(pruned)
    failing = module.register_forward_hook(fail)
    with pytest.raises(error):
        logits_of(model)
    failing.remove()
    handle.remove()
    assert logits_of(model).equal(before)


def test_error_inside_the_with_block_restores_the_model(model):
    before = logits_of(model)
    with pytest.raises(Interrupted), prune(model, CONFIG):
        raise Interrupted
    assert logits_of(model).equal(before)


def test_error_between_selection_and_the_last_layer_leaves_no_context(model):
    """A prompt that failed once runs the next time, on the same model, in the same context."""
    inputs = question()
    with prune(model, CONFIG) as handle:
        expected = generate(model, inputs)
        with pytest.raises(ValueError, match="text after each video"):
            ids = inputs["input_ids"][:, :-7]
            model(input_ids=ids, pixel_values_videos=inputs["pixel_values_videos"])
        assert generate(model, inputs).sequences.equal(expected.sequences)
    assert len(handle.report.calls) == 2


def test_saving_a_pruned_model(model, tmp_path):
    with prune(model, CONFIG):
        pruned = logits_of(model)
        model.save_pretrained(tmp_path)
    loaded = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert logits_of(loaded).equal(logits_of(model))
    with prune(loaded, CONFIG):
        assert logits_of(loaded).equal(pruned)


def test_copy_of_a_pruned_model_is_a_plain_model(model):
    before = logits_of(model)
    with prune(model, CONFIG):
        twin = copy.deepcopy(model)
        assert logits_of(twin).equal(before)
        with prune(twin, CONFIG) as handle:
            assert logits_of(twin).equal(logits_of(model))
        assert len(handle.report.calls) == 1
    assert logits_of(twin).equal(before)


def test_pruned_cache_outliving_its_pruning_is_refused(model):
    with prune(model, CONFIG):
        cache = model(**question()).past_key_values
    with pytest.raises(RuntimeError, match="its model no longer is"):
        model(input_ids=torch.tensor([[9]]), past_key_values=cache)


# ------------------------------------------------------------------------------ engagement


def test_run_without_any_video_warns(model):
    with pytest.warns(NothingPrunedWarning, match="no prompt with a video reached it"):
        with prune(model, CONFIG):
            generate(model, {"input_ids": torch.tensor([text_tokens(6)])})


def test_prompt_that_loses_nothing_warns(model):
    config = PruneVidConfig(merge=False, layer=1, keep_ratio=1.0)
    with pytest.warns(NothingPrunedWarning, match="all 128 visual tokens of a prompt were kept"):
        with prune(model, config):
            logits_of(model)


def test_run_that_prunes_does_not_warn(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with prune(model, CONFIG) as handle:
            logits_of(model)
            handle.report.clear()


# ------------------------------------------------------------------------------ refusals


def test_wrong_models_and_configs(model, build_lm):
    with pytest.raises(ValueError, match="llama, .*pllava, qwen2, .*st_llm.*got None.*Linear"):
        prune(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="config must be a PruneVidConfig, got dict"):
        prune(model, {"layer": 1})
    with pytest.raises(ValueError, match="less than the model's 5 decoder layers, got 10"):
        prune(model)
    with pytest.raises(ValueError, match="full attention only, the model has sliding_attention"):
        prune(
            tiny_models.causal_lm(
                "qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=2
            ),
            CONFIG,
        )


def test_pruning_twice(model):
    with prune(model, CONFIG):
        before = logits_of(model)
        with pytest.raises(ValueError, match="already pruned"):
            prune(model, CONFIG)
        assert logits_of(model).equal(before)


def windowed_cache() -> Cache:
    return Cache(layers=[DynamicSlidingWindowLayer(sliding_window=8) for _ in range(5)])


class TinyQuantizedLayer(QuantizedLayer):
    """A quantized layer whose packing needs no further library."""

    def _quantize(self, tensor, axis):
        return tensor.half()

    def _dequantize(self, q_tensor):
        return q_tensor.float()


def quantized_cache() -> Cache:
    return Cache(layers=[TinyQuantizedLayer() for _ in range(5)])


def prompt(ids, mask=None, clips=None) -> dict:
    ids = torch.tensor([ids])
    inputs = {"input_ids": ids, "pixel_values_videos": clip(8)[None] if clips is None else clips}
    return inputs if mask is None else {**inputs, "attention_mask": torch.tensor([mask])}


TEXT, VIDEO = text_tokens(4), video_tokens(8)
REFUSED = [
    pytest.param(
        lambda model: model(**question(), use_cache=False), "use_cache=False", id="use-cache-false"
    ),
    pytest.param(
        lambda model: model.generate(**question(), max_new_tokens=2, use_cache=False),
        "use_cache=False",
        id="generate-use-cache-false",
    ),
    pytest.param(
        lambda model: model(**question(), labels=question()["input_ids"]), "labels", id="labels"
    ),
    pytest.param(
        lambda model: model.generate(**question(), max_new_tokens=2, prefill_chunk_size=140),
        "prefill_chunk_size",
        id="chunked-prefill",
    ),
    pytest.param(
        lambda model: model(**question(), past_key_values=windowed_cache()),
        "no sliding window.*DynamicSlidingWindowLayer",
        id="windowed-cache",
    ),
    pytest.param(
        lambda model: model(**question(), past_key_values=quantized_cache()),
        "not quantized.*TinyQuantizedLayer",
        id="quantized-cache",
    ),
    pytest.param(
        lambda model: model(**prompt(TEXT + VIDEO)), "text after each video", id="no-question"
    ),
    pytest.param(
        lambda model: model(**prompt([*VIDEO, *TEXT, 0], [1] * (len(VIDEO) + 4) + [0])),
        "padded on the left",
        id="right-padding",
    ),
    pytest.param(
        lambda model: model(input_ids=torch.tensor([VIDEO + TEXT])),
        "no video features came",
        id="placeholders-without-pixels",
    ),
    pytest.param(
        lambda model: model(**prompt(VIDEO[:-1] + TEXT)),
        "128 video tokens in a row do not fit",
        id="too-few-placeholders",
    ),
    pytest.param(
        lambda model: model(**prompt(VIDEO + TEXT, clips=torch.stack([clip(8), clip(8)]))),
        "video tokens for 1 of 2 videos",
        id="too-few-videos",
    ),
    pytest.param(
        lambda model: model(
            inputs_embeds=torch.zeros(1, 133, 32), pixel_values_videos=clip(8)[None]
        ),
        "pruning needs input_ids",
        id="pixels-with-embeddings",
    ),
    pytest.param(
        lambda model: model(**{**question(), "attention_mask": torch.ones(1, 140)}),
        "attention_mask must cover",
        id="short-mask",
    ),
    pytest.param(
        lambda model: generate(
            model, repeated(), prompt_lookup_num_tokens=2, output_hidden_states=True
        ),
        "candidate tokens",
        id="hidden-states-of-candidates",
    ),
]


def repeated() -> dict:
    words = text_tokens(4, 77)
    return prompt(VIDEO + words + words[:3])


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_prompts(model, call, message):
    with prune(model, CONFIG) as handle:
        expected = logits_of(model)
        with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
            call(model)
        assert len(handle.report.calls) == 1
        assert logits_of(model).equal(expected), "the refusal left something behind"


def test_offloaded_cache_is_refused(model):
    cache = DynamicCache(config=model.config.get_text_config())
    cache.offloading = True
    with prune(model, CONFIG):
        logits_of(model)
        with pytest.raises(ValueError, match="offloaded"):
            model(**question(), past_key_values=cache)


def test_linear_attention_cache_is_refused(model):
    with prune(model, CONFIG):
        logits_of(model)
        with pytest.raises(ValueError, match="no linear attention.*LinearAttentionLayer"):
            model(
                **question(),
                past_key_values=Cache(layers=[LinearAttentionLayer() for _ in range(5)]),
            )


def test_features_that_are_not_finite(model, monkeypatch):
    """Found by the merge, or, with a budget on a GPU, left to be read after the prompt."""
    inputs = question()
    inputs["pixel_values_videos"][0, 3, 0, 0, 0] = torch.nan
    with prune(model, CONFIG) as handle:
        logits_of(model)
        with pytest.raises(ValueError, match="video 0, frame 3"):
            model(**inputs)

        def merge_without_waiting(features, frames, config):
            video = merge_videos(features, frames, config)[0]
            return [replace(video, first_bad_frame=torch.tensor(bad_frame, dtype=torch.int32))]

        monkeypatch.setattr(prunevid, "merge_videos", merge_without_waiting)
        bad_frame = 5
        with pytest.raises(ValueError, match="video 0, frame 5"):
            model(**question())
        bad_frame = 8  # all of them are finite
        model(**question())
    assert len(handle.report.calls) == 2


def test_merge_alone_needs_no_cache(model):
    with prune(model, PruneVidConfig(select=False)):
        expected = generate(model, question())
        result = generate(model, question(), use_cache=False)
    assert result.sequences.equal(expected.sequences)


def test_short_mask_after_a_pruned_prompt_is_refused(model):
    with prune(model, CONFIG):
        cache = model(**question()).past_key_values
        with pytest.raises(ValueError, match="attention_mask must cover the 141 tokens fed before"):
            model(
                input_ids=torch.tensor([[9]]),
                past_key_values=cache,
                attention_mask=torch.ones(1, 20),
            )


def test_compiled_prompt_is_refused(model):
    compiled = torch.compile(model.__call__, backend="eager", fullgraph=True)
    with prune(model, CONFIG):
        logits_of(model)
        with pytest.raises(Exception, match="compile the decoding steps only"):
            compiled(**question())


def test_static_cache_is_plain_again_after_reset(model):
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=160)
    ids, mask = left_pad([text_tokens(6)])
    expected = model(input_ids=ids, attention_mask=mask).logits
    with prune(model, CONFIG):
        model(**question(), past_key_values=cache)
        assert cache.get_seq_length() == 141
    cache.reset()
    assert not hasattr(cache, "pruned_state")
    assert model(input_ids=ids, past_key_values=cache).logits.sub(expected).abs().max() <= 1e-5


def test_engine_is_not_copied(model):
    handle = prune(model, CONFIG)
    engines = [
        hook.__self__
        for hook in copy.deepcopy(model).model.language_model._forward_pre_hooks.values()
    ]
    assert all(isinstance(engine, Engine) for engine in engines)
    logits_of(model)
    handle.remove()
    assert not model.model.language_model._forward_pre_hooks
