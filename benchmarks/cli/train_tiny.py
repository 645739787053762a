"""``prunevid train-tiny``: train an embedded model again, measure it, write its folder.

A run that was killed goes on with ``--resume``: its state is in the folder until the checkpoint is
complete. The code that trains is part of the repository and not of the installed package.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..support.terminal import AsJson, fail, print_summary, require_out_folder, say

STATE_FILE = "training-state.pt"
HELD_OUT_QUESTIONS = 2000


def train_tiny_command(
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    task: Annotated[
        str,
        typer.Option(
            help="What the model is for: plain (prunevid eval synthetic), or hard"
            " (synthetic_hard and synthetic_long), which begins with the plain one's weights."
        ),
    ] = "plain",
    seed: Annotated[int, typer.Option(min=0, help="Seed for data and weights.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    steps: Annotated[
        int | None,
        typer.Option(help="Number of steps, for a shorter trial.  [default: the whole curriculum]"),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=10, help="Number of held-out questions to measure each method on.")
    ] = HELD_OUT_QUESTIONS,
    resume: Annotated[bool, typer.Option(help="Continue the unfinished run in --out.")] = False,
    as_json: AsJson = None,
) -> None:
    """Train an embedded model again, from a seed.

    Measures it and writes a checkpoint with a model card. Needs a checkout of the repository, and
    less than an hour on two cores.
    """
    if find_spec("prunevid_kernels.benchmarks.train_tiny") is None:
        fail("train-tiny needs a checkout of the repository, installed with pip install -e")
    state = out / STATE_FILE
    require_out_folder(out)
    if resume and not state.is_file():
        fail(f"--resume: there is no unfinished run in {out}")
    if not resume and out.is_dir() and any(out.iterdir()):
        fail(f"--out: {out} is not empty; --resume goes on with an unfinished run")

    from prunevid_kernels.adapters.families.video_model import silence_transformers

    from ..support.options import InputError, resolve_device
    from ..train_tiny.model import save_checkpoint
    from ..train_tiny.produce import measure_and_describe, train
    from ..train_tiny.tasks import TASKS
    from ..train_tiny.training import StateError, Training, curriculum_of, shortened

    silence_transformers()
    if task not in TASKS:
        fail(f"--task must be one of {', '.join(TASKS)}, got {task!r}")
    whole = curriculum_of(TASKS[task])
    try:
        curriculum = whole if steps is None else shortened(whole, steps)
    except ValueError as error:
        fail(f"--steps: {error}")
    start = time.perf_counter()
    try:
        training = Training(seed, resolve_device(device), curriculum, TASKS[task])
        if resume:
            training.load(state)
        out.mkdir(parents=True, exist_ok=True)
        train(training, state)
        save_checkpoint(training.model, training.tokenizer, out, TASKS[task].frames)
        accuracy = measure_and_describe(out, training, questions)
        state.unlink()
    except InputError as error:
        fail(str(error))
    except StateError as error:
        fail(f"--resume: {error}")
    except OSError as error:
        fail(f"--out: {error.filename or out}: {error.strerror or error}")
    say(f"checkpoint {out}, " + ", ".join(f"{name} {x:.1%}" for name, x in accuracy.items()))
    result = {"checkpoint": str(out), "task": task, "seed": seed, "steps": training.total_steps}
    result |= {"seconds": time.perf_counter() - start, "accuracy": accuracy}
    print_summary(result, as_json)
