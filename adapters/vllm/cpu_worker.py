"""vLLM's CPU worker, asking pruned models for positions as its GPU worker does.

vLLM decides while it loads a model whether embeddings bring positions along. Its CPU runner has a
``load_model`` of its own that leaves this out (0.32), so that Qwen2.5-VL cannot be pruned there by
any method. This worker, chosen with ``--worker-cls``, decides afterwards. GPUs do not need it.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.interfaces import supports_multimodal_pruning
from vllm.v1.worker.cpu_worker import CPUWorker as VllmCPUWorker


class CPUWorker(VllmCPUWorker):
    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        multimodal = self.model_config.get_multimodal_config()
        self.model_runner.is_multimodal_pruning_enabled = (
            supports_multimodal_pruning(self.model_runner.get_model())
            and multimodal.is_multimodal_pruning_enabled()
        )
