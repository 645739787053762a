"""What a caller holds while a model is pruned.

It stands beside the engine and not at the door, because a loaded model's own ``ask`` prunes as well
and families do not import the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from .engine import Engine
from .interface import PromptVisuals


class PruneHandle:
    """A pruned model's handle; a context manager that restores the model at its end.

    Attributes:
        report: what each call did, see :class:`PruneReport`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.report = engine.report

    def remove(self) -> None:
        """Restore the model; a second call does nothing. Warns if nothing was ever pruned."""
        if self._engine.is_active():
            self._engine.remove()
            self._engine.warn_if_idle()

    def videos(self, prompts: Sequence[PromptVisuals]) -> AbstractContextManager[None]:
        """Say where the videos are in the next prompt, where its arguments do not tell: one of
        ``inputs_embeds``, or of a model that sees the frames of a video as images.

        ``with handle.videos([...]): model.generate(inputs_embeds=...)``

        Args:
            prompts: what is not text in each prompt of the batch, padding counted. ``generate`` may
                repeat prompts, for beams or several returned sequences.

        Raises:
            RuntimeError: (on leaving the block) no such prompt came.
        """
        return self._engine.announce(prompts)

    def __enter__(self) -> PruneHandle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.remove()
        else:
            self._engine.remove()
