"""``prunevid train-tiny``: train the embedded model again, measure it, write its folder.

Progress goes to stderr; the last line on stdout is JSON. A run that was killed goes on with
``--resume``: its state lies in the folder until the checkpoint is complete.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from ..support.terminal import fail, progress_bar

if TYPE_CHECKING:
    from ..train_tiny.training import Training

STATE_FILE = "training-state.pt"
SAVE_EVERY_STEPS = 50
HELD_OUT_QUESTIONS = 2000


def train_tiny_command(
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.")],
    seed: Annotated[int, typer.Option(min=0, help="What data and weights follow from.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    steps: Annotated[
        int | None,
        typer.Option(help="Steps in all, fewer than all for a trial run.  [default: all]"),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=10, help="Held-out questions to measure each method on.")
    ] = HELD_OUT_QUESTIONS,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
) -> None:
    """Train the embedded model from a seed, measure it, and write a checkpoint with a model card.

    Needs less than an hour on two cores.
    """
    state = out / STATE_FILE
    if out.exists() and not out.is_dir():
        fail(f"--out: {out} is not a folder")
    if resume and not state.is_file():
        fail(f"--resume: there is no unfinished run in {out}")
    if not resume and out.is_dir() and any(out.iterdir()):
        fail(f"--out: {out} is not empty; --resume goes on with an unfinished run")

    from prunevid_kernels.adapters.families.video_model import silence_transformers

    from ..run.run import InputError, resolve_device
    from ..train_tiny.model import save_checkpoint
    from ..train_tiny.training import CURRICULUM, StateError, Training, shortened

    silence_transformers()
    try:
        curriculum = CURRICULUM if steps is None else shortened(CURRICULUM, steps)
    except ValueError as error:
        fail(f"--steps: {error}")
    start = time.perf_counter()
    try:
        training = Training(seed, resolve_device(device), curriculum)
        if resume:
            training.load(state)
        out.mkdir(parents=True, exist_ok=True)
        _train(training, state)
        save_checkpoint(training.model, training.tokenizer, out)
        accuracy = _measure(out, training, questions)
        state.unlink()
    except InputError as error:
        fail(str(error))
    except StateError as error:
        fail(f"--resume: {error}")
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    result = {"checkpoint": str(out), "seed": seed, "steps": training.total_steps}
    print(json.dumps(result | {"seconds": time.perf_counter() - start, "accuracy": accuracy}))


def _train(training: Training, state: Path) -> None:
    """All steps that are left, with a bar; the state is saved on the way and at the end."""
    total, done = training.total_steps, training.steps_done
    with tqdm(total=total, initial=done, unit="step", dynamic_ncols=True) as bar:
        while not training.is_done:
            bar.set_description(training.stage.name)
            loss, accuracy = training.advance()
            bar.set_postfix(loss=f"{loss:.3f}", right=f"{accuracy:.0%}", refresh=False)
            bar.update()
            if training.steps_done % SAVE_EVERY_STEPS == 0 or training.is_done:
                training.save(state)


def _measure(out: Path, training: Training, questions: int) -> dict[str, float]:
    """Measure the checkpoint in ``out`` and write its card; macro accuracy of each method."""
    from prunevid_kernels.adapters.families.video_model import load_video_model

    from ..datasets.synthetic import held_out_questions
    from ..support.environment import describe
    from ..train_tiny.card import model_card
    from ..train_tiny.measure import MEASURED, measure

    model = load_video_model(out, str(training.model.device))
    results = []
    for method in MEASURED:
        with progress_bar(f"measuring {method}", questions, 0) as advance:
            results.append(measure(model, held_out_questions(questions), method, advance))
    environment = describe(training.model.device)
    device = environment["gpu"]["name"] if environment["gpu"] else "CPU"
    card = model_card(
        results,
        seed=training.seed,
        steps=training.steps_by_stage,
        parameters=sum(p.numel() for p in training.model.parameters()),
        words=len(training.tokenizer),
        where=f"{device}, CPU threads: {environment['cpu_threads']},"
        f" torch {environment['packages']['torch']}",
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    return {result.method: result.macro for result in results}
