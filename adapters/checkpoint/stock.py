"""Strict loading of a checkpoint into transformers' own class.

transformers renames what older versions saved while it loads, differently from version to version.
So its own loader places the tensors. But it reads whatever an index points to, casts whatever kind
of number it finds, leaves at random what is missing and drops what is left over. So it never sees
the folder: files are opened by :func:`~.files.open_checkpoint`, which checks them, and the loader
gets tensors; first without data, for a report, then, if nothing is wrong, with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import GenerationConfig

from .files import Checkpoint, CheckpointError, open_checkpoint, read_json
from .loading import LoadReport, Mismatch, choose_attention, require_finite


@dataclass(frozen=True)
class StockLoader:
    """Loads one family's checkpoints.

    Attributes:
        config_class, model_class: of transformers.
    """

    config_class: Any
    model_class: Any

    def read_config(self, folder: Path) -> Any:
        """The config of a checkpoint folder, without what it says of attention kernels.

        Raises:
            CheckpointError: a config.json that is missing or that transformers refuses; a quantized
                model.
        """
        file = folder / "config.json"
        values = read_json(file)
        if values.get("quantization_config") is not None:
            raise CheckpointError(f"{file}: quantized checkpoints are not supported")
        try:
            config = self.config_class.from_dict(values)
        except (
            StrictDataclassError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise CheckpointError(f"{file}: {reason}") from error
        choose_attention(config)
        return config

    def check(self, checkpoint: Checkpoint) -> LoadReport:
        """What :func:`load` would find; reads headers only.

        Raises:
            CheckpointError: see :func:`read_config`; tensors that are joined to one, as those of
                experts are, and of which one is missing or does not fit the others.
        """
        stored = checkpoint.tensors
        empty = {
            key: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for key, tensor in stored.items()
        }
        config = self.read_config(checkpoint.folder)
        try:
            model, info = self._fill(config, empty, torch.device("meta"), None)
        except RuntimeError as error:  # from joining them; transformers logs which
            raise CheckpointError(
                f"{checkpoint.folder}: the checkpoint does not fit {self.model_class.__name__}: "
                "tensors that are joined to one (those of experts) are missing or do not go "
                "together"
            ) from error
        unexpected = tuple(sorted(info["unexpected_keys"]))
        mismatched = [
            Mismatch(key, str(list(expected)), str(list(found)))
            for key, found, expected in sorted(info["mismatched_keys"])
        ]
        # All of these models' tensors are floating-point numbers.
        mismatched += [
            Mismatch(key, "floating-point numbers", str(stored[key].dtype))
            for key in sorted(stored)
            if not stored[key].dtype.is_floating_point and key not in unexpected
        ]
        missing = tuple(sorted(info["missing_keys"]))
        return LoadReport(
            loaded=len(model.state_dict()) - len(missing) - len(mismatched),
            missing=missing,
            unexpected=unexpected,
            mismatched=tuple(mismatched),
        )

    def load(
        self,
        folder: Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> Any:
        """Load a checkpoint folder; nothing is downloaded.

        Args:
            folder: the checkpoint.
            dtype: of the model; None: as stored.
            device: of the model.

        Returns:
            The model, in eval mode.

        Raises:
            CheckpointError: files missing, damaged or unsafe; weights that do not fit, with a
                report, or that are no finite numbers.
        """
        checkpoint = open_checkpoint(folder)
        self.check(checkpoint).require_loadable(folder, self.model_class.__name__)
        tensors = {
            key: tensor
            for file in checkpoint.files
            for key, tensor in checkpoint.read(file, checkpoint.tensors)
        }
        config = self.read_config(folder)
        model, _ = self._fill(config, tensors, torch.device(device), dtype or checkpoint.dtype)
        for name, tensor in model.state_dict().items():
            require_finite(folder, name, tensor)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(
                folder, local_files_only=True
            )
        return model.eval()

    def _fill(
        self,
        config: Any,
        tensors: dict[str, Tensor],
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> tuple[Any, dict[str, Any]]:
        """A model with these tensors on a device, and what transformers' loader says of them."""
        found: tuple[Any, dict[str, Any]] = self.model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype or "auto",
            device_map={"": device},
            ignore_mismatched_sizes=True,  # told in the report, with everything else
            output_loading_info=True,
            trust_remote_code=False,
        )
        return found
