"""Whether a LLaVA-OneVision checkpoint fits, asked of transformers without reading a weight.

transformers renames what older versions saved while it loads, differently from version to version.
So its own loader judges: it gets tensors of the right names and shapes and without data.
"""

from __future__ import annotations

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from ...checkpoint.files import Checkpoint, CheckpointError
from ...checkpoint.loading import LoadReport, Mismatch


def check_llava_onevision(checkpoint: Checkpoint) -> LoadReport:
    """What ``LlavaOnevisionForConditionalGeneration.from_pretrained`` would find; reads headers
    only.

    Raises:
        CheckpointError: a config.json that transformers refuses.
    """
    try:
        config = LlavaOnevisionConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    except (StrictDataclassError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint.folder / 'config.json'}: {reason}") from error
    tensors = {
        key: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for key, tensor in checkpoint.tensors.items()
    }
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        device_map="meta",
        ignore_mismatched_sizes=True,  # told in the report, with everything else
        output_loading_info=True,
    )
    mismatched = [
        Mismatch(key, str(list(expected)), str(list(found)))
        for key, found, expected in sorted(info["mismatched_keys"])
    ]
    missing = sorted(info["missing_keys"])
    return LoadReport(
        loaded=len(model.state_dict()) - len(missing) - len(mismatched),
        missing=tuple(missing),
        unexpected=tuple(sorted(info["unexpected_keys"])),
        mismatched=tuple(mismatched),
    )
