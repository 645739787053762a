"""The results of ``prunevid bench serve`` as Markdown."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("requests_per_s", "requests/s", 2),
    ("tokens_per_s", "tokens/s", 1),
    ("first_token_p50_ms", "TTFT p50 ms", 0),
    ("first_token_p99_ms", "TTFT p99 ms", 0),
)


def table(results: dict[str, Any]) -> str:
    """A row for each level and server, with how many times as fast the pruned one is; a server that
    died or did not start says so in its place."""
    tokens = results["prompt_tokens"]
    lines = [
        f"{results['model']}, {results['video']}: {tokens['visual']} visual tokens, "
        f"{tokens['merged']} kept; prompt of {tokens['unpruned']} and {tokens['pruned']} tokens; "
        f"{results['max_tokens']} tokens an answer. {results['note']}.",
        "",
        f"| concurrency | server | {' | '.join(title for _, title, _ in COLUMNS)} "
        "| pruned is faster by: median (lowest to highest) of neighbouring waves |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for index, ratios in enumerate(results["ratios"]):
        level = ratios["concurrency"]
        for name, loads in results["servers"].items():
            if index >= len(loads):
                death = results["deaths"][name]
                at = death["concurrency"]
                when = f"died at {at} at once" if at else "did not start"
                died = f"{when}: `{death['error']}`"
                lines.append(f"| {level} | {name} | {died} |{' |' * len(COLUMNS)}")
                continue
            load = loads[index]
            cells = [f"{load[key]:.{digits}f}" for key, _, digits in COLUMNS]
            ratio = ratios.get(name)
            faster = "-" if ratio is None else "{median:.2f} ({lowest:.2f} to {highest:.2f})"
            cells.append(faster.format(**(ratio or {})))
            lines.append(f"| {level} | {name} | {' | '.join(cells)} |")
    if results["merging"]:
        each = [
            f"{merges['ms_per_video']:.1f} ms a video and {merges['share']:.1%} of the time at "
            f"{merges['concurrency']}"
            for merges in results["merging"]
        ]
        lines += ["", f"The merge itself, by the plugin's own clock: {', '.join(each)}."]
    return "\n".join(lines) + "\n"
