"""A request whose logits are NaN ends with an error, and nobody else's.

A video whose features are not finite, as a tower that overflows gives them, becomes NaN
(:mod:`..merging`), and so does everything that is computed from it. vLLM by itself would sample
from that until the answer is as long as was asked. It can count the NaNs in each request's logits,
and the counts come to the host together with the sampled tokens; these schedulers end the requests
that have any, and their clients get a server error.

Such a request leaves NaN in its blocks of the cache. The CPU engine's attention multiplies what
lies behind a request's last token by 0, which leaves NaN what is NaN, so whoever gets such a block
next would end as well: on a CPU, blocks are zeroed before they are used again, as vLLM does for
models with states.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import RequestStatus

logger = init_logger(__name__)


class NanEndingScheduler(Scheduler):
    """vLLM's scheduler, for engines that wait for a step before they plan the next."""

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        counts = model_runner_output.num_nans_in_logits or {}
        # Ended before vLLM looks at the step, which then passes over them as over requests that
        # their clients have left while the step ran.
        ended = self.finish_requests(
            [name for name, count in counts.items() if count], RequestStatus.FINISHED_ERROR
        )
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        for request in ended:
            logger.error("Request %s ended: its logits are NaN", request.request_id)
            client = outputs.setdefault(request.client_index, EngineCoreOutputs())
            client.outputs.append(
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=[],
                    finish_reason=request.get_finished_reason(),
                    events=request.take_events(),
                    trace_headers=request.trace_headers,
                )
            )
        return outputs


class NanEndingAsyncScheduler(NanEndingScheduler, AsyncScheduler):
    """The same for engines that plan a step while the one before it runs."""


class ZeroedCacheConfig(KVCacheConfig):
    """A scheduler of this config has every block zeroed that it hands out."""

    needs_kv_cache_zeroing = True


def scheduler_for(vllm_config: VllmConfig, **options: Any) -> Scheduler:
    """The one of the two that an engine of this config needs; in place of a class in
    ``scheduler_cls``, which is set before it is decided how steps are planned."""
    is_async = vllm_config.scheduler_config.async_scheduling
    if current_platform.is_cpu():
        config = options["kv_cache_config"]
        values = {field.name: getattr(config, field.name) for field in fields(config)}
        options["kv_cache_config"] = ZeroedCacheConfig(**values)
    scheduler = NanEndingAsyncScheduler if is_async else NanEndingScheduler
    return scheduler(vllm_config=vllm_config, **options)
