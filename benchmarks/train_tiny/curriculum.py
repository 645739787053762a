"""The stages in which each embedded model is trained; what they are for, ``training`` says.

The hard model begins as the plain one. Its tower first learns what is new, where attention should
go among it, and, in a stage of their own, shapes; then its decoder all questions, about longer and
longer clips. Numbers of steps are what there was time for.
"""

from __future__ import annotations

from dataclasses import dataclass

from .batches import MAX_QUESTIONS
from .losses import HIGHEST_LIKENESS


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Attributes:
        frames: lengths of its clips, taken in turn; 0 stands for dense single frames.
        clips: clips (or frames) in one step.
        muon_lr, adam_lr: highest learning rates.
        noun_weight, probe_weight: share in the loss of what questions ask about, and of motion and
            scene.
        questions: most questions on a clip.
        frames_per_step: most frames in a step, so that there are fewer of the longer clips; None:
            as many clips of each length.
        highest_likeness: see ``see_loss``: of a cell's features with and without a shape.
        where_weight: share in the loss of where the tower's attention goes.
        shape_weight: share in the loss of the shapes, beside all cells.
        watched_frames: frames, in one step, of further clips that are only watched: motion and
            scene are read, and nothing is asked.
    """

    name: str
    steps: int
    frames: tuple[int, ...]
    clips: int
    muon_lr: float
    adam_lr: float = 0.003
    noun_weight: float = 0.0
    probe_weight: float = 0.0
    watched_frames: int = 0
    questions: int = MAX_QUESTIONS
    frames_per_step: int | None = None
    highest_likeness: float = HIGHEST_LIKENESS
    where_weight: float = 0.0
    shape_weight: float = 0.0

    @property
    def sees(self) -> bool:
        """Whether tower and projector are trained, on single frames."""
        return self.frames == (0,)

    def clips_of(self, num_frames: int) -> int:
        """How many clips of a length are in one step."""
        if self.frames_per_step is None:
            return self.clips
        return max(2, min(self.clips, self.frames_per_step // num_frames))


CURRICULUM = (
    Stage("see", 260, (0,), 32, muon_lr=0.012),
    Stage("find", 260, (1,), 20, muon_lr=0.025, noun_weight=1.0, watched_frames=96),
    Stage("answer", 640, (4, 6, 8), 16, muon_lr=0.018, noun_weight=0.2, probe_weight=0.5),
)
HARD_CURRICULUM = (
    # Gently: the plain model's tower sees large shapes already.
    Stage(
        "see", 190, (0,), 20, muon_lr=0.005, adam_lr=0.002, highest_likeness=0.0, where_weight=1.0
    ),
    # Most cells show none, so of small shapes little is learned unless they count for more.
    Stage(
        "shapes",
        170,
        (0,),
        20,
        muon_lr=0.008,
        highest_likeness=0.0,
        where_weight=1.0,
        shape_weight=4.0,
    ),
    Stage(
        "short",
        240,
        (8, 4, 8),
        12,
        muon_lr=0.013,
        noun_weight=0.3,
        probe_weight=0.5,
        questions=12,
        frames_per_step=60,
    ),
    Stage(
        "long",
        640,
        (16, 8, 16, 8, 16, 32),
        8,
        muon_lr=0.014,
        noun_weight=0.1,
        probe_weight=0.3,
        questions=12,
        frames_per_step=64,
    ),
)
