"""What pruning does to a prefill and to decoding, on a decoder of real size with random weights.

Time hangs on shapes and not on values, so no checkpoint is needed; how many tokens are left hangs
on the features, which are those of a generated video (:mod:`.cases`). The decoder gets its visual
tokens as ``inputs_embeds``, so vision tower and projector are not part of it. Before anything is
timed, the pruned model has to agree with the plain model on tokens that were merged by hand, and
its caches have to have the lengths that the report says.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_kernels import PruneVidConfig, merge_video

from .cases import ModelShape, video_features
from .harness import IncorrectResultError
from .timing import Quantiles, peak_memory_bytes, time_runs

DECODE_TOKENS = 32


@dataclass(frozen=True)
class Workload:
    """A batch of prompts, each with one video, on one decoder."""

    shape: ModelShape
    frames: int
    batch: int
    dtype: torch.dtype

    @property
    def visual_tokens(self) -> int:
        return self.frames * self.shape.tokens_per_frame

    def embeddings(self, device: torch.device) -> Tensor:
        """[B, S, C] prompts: text, video, text."""
        shape = self.shape
        rows = []
        for row in range(self.batch):
            generator = torch.Generator(device).manual_seed(row)
            video = video_features(
                self.frames,
                shape.tokens_per_frame,
                shape.channels,
                seed=row,
                device=device,
                dtype=self.dtype,
            )
            before, after = (
                torch.randn((count, shape.channels), generator=generator, device=device)
                for count in (shape.text_before, shape.text_after)
            )
            parts = (before.to(self.dtype), video.flatten(0, 1), after.to(self.dtype))
            rows.append(torch.cat(parts))
        return torch.stack(rows)


def build_decoder(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> Any:
    """A Qwen2 decoder of the shape's sizes, random weights, made on the device; SDPA attention.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import AutoModelForCausalLM, Qwen2Config

    decoder = shape.decoder
    config = Qwen2Config(
        hidden_size=decoder.hidden_size,
        intermediate_size=decoder.mlp_size,
        num_hidden_layers=decoder.num_layers,
        num_attention_heads=decoder.num_heads,
        num_key_value_heads=decoder.num_kv_heads,
        vocab_size=decoder.vocab_size,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


class Prefill:
    """Prefills of one workload, plain or pruned; a call returns the model's output."""

    def __init__(self, model: Any, workload: Workload, embeddings: Tensor, handle: Any) -> None:
        self._model = model
        self._embeddings = embeddings
        self._handle = handle
        if handle is not None:
            from prunevid_kernels.adapters import PromptVisuals, VideoSpan

            shape = workload.shape
            span = VideoSpan(shape.text_before, workload.frames, shape.tokens_per_frame)
            self._prompts = [PromptVisuals(videos=(span,))] * workload.batch

    @torch.inference_mode()
    def __call__(self) -> Any:
        announced = self._handle.videos(self._prompts) if self._handle else nullcontext()
        with announced:
            return self._model(inputs_embeds=self._embeddings, use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def decode(self, cache: Any, tokens: int) -> None:
        """Feed ``tokens`` tokens one by one behind the cache."""
        token = torch.zeros((len(self._embeddings), 1), dtype=torch.int64)
        token = token.to(self._embeddings.device)
        for _ in range(tokens):
            self._model(input_ids=token, past_key_values=cache, use_cache=True)


def measure_workload(
    model: Any,
    workload: Workload,
    config: PruneVidConfig,
    device: torch.device,
    *,
    runs: int,
    seconds: float,
    is_timed: bool,
) -> dict[str, Any]:
    """Check, then time dense and pruned prefill and decoding.

    Args:
        runs: timed runs of each; fewer, but 5 at least, where they would take over ``seconds``.

    Raises:
        IncorrectResultError: the pruned model does not do what it should.
    """
    from prunevid_kernels.adapters import prune

    embeddings = workload.embeddings(device)
    check_merge_only(model, workload, embeddings, config)
    row: dict[str, Any] = {
        "model": f"Qwen2 decoder of {workload.shape.name}, random weights",
        "attention": "sdpa",
        "dtype": str(workload.dtype).removeprefix("torch."),
        "layer": config.layer,
        "batch": workload.batch,
        "frames": workload.frames,
        "text_tokens": workload.shape.text_before + workload.shape.text_after,
        "visual_tokens": workload.visual_tokens,
        "is_timed": is_timed,
    }
    with prune(model, config) as handle:
        pruned = Prefill(model, workload, embeddings, handle)
        output = pruned()
        call = handle.report.last
        _check_caches(output, call, config)
        row["merged_tokens"] = [video.tokens_merged for video in call.videos]
        row["kept_tokens"] = [video.tokens_kept for video in call.videos]
        row["pruned_kv_bytes"] = _kv_bytes(output.past_key_values)
        del output
        if is_timed:
            handle.report.clear()
            row |= _timings("pruned", pruned, device, runs, seconds)
            calls = handle.report.calls[-runs:]
            for stage in ("merge", "score", "gather"):
                times = [1000 * getattr(call, f"{stage}_seconds") for call in calls]
                row[f"{stage}_ms"] = statistics.median(times)
    dense = Prefill(model, workload, embeddings, None)
    output = dense()
    row["dense_kv_bytes"] = _kv_bytes(output.past_key_values)
    del output
    if is_timed:
        row |= _timings("dense", dense, device, runs, seconds)
        pruned_ms = row["pruned_prefill_ms"]["median"]
        row["prefill_speedup"] = row["dense_prefill_ms"]["median"] / pruned_ms
        overhead = row["merge_ms"] + row["score_ms"] + row["gather_ms"]
        row["overhead_share_of_prefill"] = overhead / pruned_ms
    return row


def _timings(
    name: str, prefill: Prefill, device: torch.device, runs: int, seconds: float
) -> dict[str, Any]:
    start_s = time.perf_counter()
    output = prefill()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    once_s = max(time.perf_counter() - start_s, 1e-9)
    runs = max(5, min(runs, int(seconds / once_s)))
    del output
    prefill_ms = time_runs([prefill], device, warmups=min(10, runs), runs=runs)
    peak_bytes = peak_memory_bytes(prefill, device)
    cache = prefill().past_key_values
    prefill.decode(cache, 4)
    decode_ms = time_runs([lambda: prefill.decode(cache, DECODE_TOKENS)], device, warmups=1, runs=3)
    return {
        f"{name}_prefill_ms": asdict(Quantiles.of(prefill_ms)),
        f"{name}_runs": runs,
        f"{name}_peak_memory_bytes": peak_bytes,
        f"{name}_decode_ms_per_token": statistics.median(decode_ms) / DECODE_TOKENS,
    }


def check_merge_only(
    model: Any, workload: Workload, embeddings: Tensor, config: PruneVidConfig
) -> None:
    """The pruned model without selection gives what the plain one gives on hand-merged tokens.

    Raises:
        IncorrectResultError: it does not.
    """
    from prunevid_kernels.adapters import prune

    only_merge = PruneVidConfig(tau=config.tau, layer=config.layer, select=False)
    one = Workload(workload.shape, workload.frames, 1, workload.dtype)
    first, shape = embeddings[:1], workload.shape
    with prune(model, only_merge) as handle:
        pruned = Prefill(model, one, first, handle)().logits
    start, stop = shape.text_before, shape.text_before + one.visual_tokens
    video = first[0, start:stop].unflatten(0, (one.frames, shape.tokens_per_frame))
    merged = merge_video(video, only_merge).tokens
    by_hand = torch.cat((first[0, :start], merged, first[0, stop:]))[None]
    plain = Prefill(model, one, by_hand, None)().logits
    error = ((pruned - plain).double().norm() / plain.double().norm()).item()
    limit = 1e-4 if workload.dtype == torch.float32 else 2e-2
    if not error <= limit:
        raise IncorrectResultError(
            f"merge-only logits are {error:.3g} away from those of hand-merged tokens"
        )


def _check_caches(output: Any, call: Any, config: PruneVidConfig) -> None:
    if not bool(output.logits.isfinite().all()):
        raise IncorrectResultError("logits of the pruned model are not finite")
    for video in call.videos:
        sizes = video.layout.group_sizes.tolist()
        expected = sum(int(size * config.keep_ratio) for size in sizes)
        if video.tokens_kept != expected:
            raise IncorrectResultError(f"{video.tokens_kept} tokens kept, not {expected}")
    longest = max(video.tokens_kept + call.other_tokens[video.prompt] for video in call.videos)
    lengths = {layer.keys.shape[2] for layer in output.past_key_values.layers}
    if lengths != {longest}:
        raise IncorrectResultError(f"cache lengths {sorted(lengths)}, not {longest}")


def _kv_bytes(cache: Any) -> int:
    return sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )


def end_to_end_rows(
    shape: ModelShape,
    frames: int,
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    config: PruneVidConfig,
    *,
    is_timed: bool,
    has_time: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """A row a batch size, for as long as ``has_time``; a failure is a row as well."""
    from prunevid_kernels.adapters import NothingPrunedWarning

    model = build_decoder(shape, device, dtype)
    for batch in batches:
        if not has_time():
            return
        workload = Workload(shape, frames, batch, dtype)
        # Out of memory at a large batch must not cost the rows before it.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", NothingPrunedWarning)
                row = measure_workload(
                    model, workload, config, device, runs=50, seconds=8.0, is_timed=is_timed
                )
            yield {"status": "ok" if is_timed else "not timed", **row}
        except IncorrectResultError as error:
            yield {"status": "incorrect", "batch": batch, "reason": str(error)}
        except Exception as error:
            text = " ".join(str(error).split())[:400]
            yield {"status": "failed", "batch": batch, "reason": f"{type(error).__name__}: {text}"}
