"""Latency rows as Markdown: for each shape a table of times and one of what they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from .stages import STAGES

STAGE_TITLES = {
    "vision": "vision + projector",
    "merge": "merge",
    "prefill": "LLM prefill",
    "scoring": "scoring",
    "gather": "gather",
    "first_token": "first token",
}

LatencyJson = Mapping[str, Any]
"""A row of ``latency.json``."""


def latency_markdown(rows: Sequence[LatencyJson]) -> str:
    """Tables of the rows of ``latency.json``, in their order."""
    parts = []
    for _, group in groupby(rows, key=lambda row: (row["model"], row["frames"], row["batch"])):
        lines = list(group)
        parts.append("\n".join([*_head(lines[0]), *_times(lines), "", *_parts(lines)]) + "\n")
    return "\n".join(parts)


def _head(row: LatencyJson) -> list[str]:
    features = (
        "generated video features in place of the projector's output"
        if row["features"] == "generated"
        else "the model's own features"
    )
    read = row["read_ms"]
    reading = f"; decoding and preprocessing one video: {read['median']:.1f} ms" if read else ""
    return [
        f"### {row['model']}: {row['frames']} frames, batch {row['batch']}",
        "",
        f"{row['visual_tokens']} visual and {row['text_tokens']} other tokens a prompt, {features};"
        f" {row['dtype']}, {row['attention']} attention, {row['device']}{reading}.",
        "",
    ]


def _times(rows: Sequence[LatencyJson]) -> list[str]:
    first = rows[0]["output_tokens"]
    lines = [
        "| method | merged | kept | first token, ms (p10 - p90) | speedup | ms/token | tokens/s,"
        f" {first} tokens | peak, MB | KV, MB | GMACs: paper / exact / end to end | cold, ms |"
        " runs | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [
            method_name(row),
            _share(row["merged_tokens"], row["visual_tokens"]),
            _share(row["kept_tokens"], row["visual_tokens"]),
            _quantiles(row["first_token_ms"]),
            _number(row["speedup"], ".2f"),
            _number(row["ms_per_token"] and row["ms_per_token"]["median"], ".2f"),
            _number(row["tokens_per_s"], ".1f"),
            _number(row["peak_memory_bytes"] and row["peak_memory_bytes"] / 1e6, ".0f"),
            _number(row["kv_bytes"] / 1e6 or None, ".2f"),
            " / ".join(f"{value / 1e9:.2f}" for value in row["flops"].values()) or "-",
            _number(row["cold_ms"], ".1f"),
            str(row["runs"]),
            "" if row["status"] == "ok" else f"**{row['status']}** {_escaped(row['reason'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _parts(rows: Sequence[LatencyJson]) -> list[str]:
    titles = " | ".join(STAGE_TITLES[stage] for stage in STAGES)
    lines = [f"| medians, ms | {titles} |", "|---" + "|---:" * len(STAGES) + "|"]
    for row in rows:
        if row["stages"]:
            cells = [f"{row['stages'][stage]['median']:.3f}" for stage in STAGES]
            lines.append(f"| {method_name(row)} | {' | '.join(cells)} |")
    return lines if len(lines) > 2 else []


def method_name(row: LatencyJson) -> str:
    """The method, with the options it ran with."""
    options = ", ".join(f"{name}={value}" for name, value in row["options"].items())
    return f"{row['method']} ({options})" if options else row["method"]


def _share(tokens: Sequence[int], visual_tokens: int) -> str:
    """Mean over the batch's prompts."""
    return f"{sum(tokens) / len(tokens) / visual_tokens:.1%}" if tokens else "-"


def _quantiles(value: Mapping[str, float] | None, digits: int = 2) -> str:
    if not value:
        return "-"
    median, p10, p90 = (f"{value[key]:.{digits}f}" for key in ("median", "p10", "p90"))
    return f"{median} ({p10} - {p90})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _escaped(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def merge_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The merge alone, from the rows of the kernel benchmark."""
    if not rows:
        return ""
    lines = [
        "",
        "### The merge alone",
        "",
        "| case | variant | call, ms (p10 - p90) | replay, ms (p10 - p90) | speedup | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        cells = [
            row["case"]["name"],
            row["variant"],
            _quantiles(row["latency_ms"], digits=4),
            _quantiles(row["replay_ms"], digits=4),
            _number(row["speedup"], ".2f"),
            "" if row["status"] == "ok" else f"**{row['status']}** {_escaped(row['reason'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
