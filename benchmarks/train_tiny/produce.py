"""From a training run to a checkpoint folder: the loop with its saved state, and the model card."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from prunevid_kernels.adapters.families.video_model import load_video_model

from ..support.environment import describe
from ..support.terminal import progress_bar
from .card import model_card
from .measure import measure
from .training import Training

SAVE_EVERY_STEPS = 50


def train(training: Training, state: Path) -> None:
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


def measure_and_describe(out: Path, training: Training, questions: int) -> dict[str, float]:
    """Measure the checkpoint in ``out`` and write its card; macro accuracy of each method."""
    model = load_video_model(out, str(training.model.device))
    results = []
    for method in training.task.measured:
        with progress_bar(f"measuring {method}", questions, 0) as advance:
            results.append(measure(model, training.task.held_out(questions), method, advance))
    environment = describe(training.model.device)
    device = environment["gpu"]["name"] if environment["gpu"] else "CPU"
    card = model_card(
        results,
        training.task,
        seed=training.seed,
        steps=training.steps_by_stage,
        parameters=sum(p.numel() for p in training.model.parameters()),
        words=len(training.tokenizer),
        where=f"{device}, CPU threads: {environment['cpu_threads']},"
        f" torch {environment['packages']['torch']}",
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    return {result.method: result.macro for result in results}
