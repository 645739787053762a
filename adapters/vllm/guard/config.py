"""What an engine that serves one of the plugin's models is configured with, beside its options.

A scheduler that ends requests with NaN logits (scheduler.py), and the counts that it goes by, which
only an environment variable switches on: it is set for this process and those that it starts.
Whoever names a scheduler of their own keeps it, and then nothing is counted.
"""

from __future__ import annotations

import os

from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

SCHEDULER = "prunevid_kernels.adapters.vllm.guard.scheduler.scheduler_for"
COUNT_NANS = "VLLM_COMPUTE_NANS_IN_LOGITS"


def configured(model: type[VerifyAndUpdateConfig] | None) -> type[VerifyAndUpdateConfig]:
    """What vLLM is to do with a config.

    Args:
        model: what it does for the model that the plugin's is made of, if anything; done first.
    """
    before = model or VerifyAndUpdateConfig

    class PruneVidConfigUpdate(VerifyAndUpdateConfig):
        @staticmethod
        def verify_and_update_config(vllm_config: VllmConfig) -> None:
            before.verify_and_update_config(vllm_config)
            if vllm_config.scheduler_config.scheduler_cls is None:
                vllm_config.scheduler_config.scheduler_cls = SCHEDULER
                os.environ[COUNT_NANS] = "1"

        @staticmethod
        def verify_and_update_model_config(model_config: ModelConfig) -> None:
            before.verify_and_update_model_config(model_config)

    return PruneVidConfigUpdate
