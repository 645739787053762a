"""Requests with a video to an OpenAI-compatible server, and how long they take.

Each request is streamed, so that the time to the first token is seen as a user sees it. Each video
has a name of its own (``uuid``): the server would otherwise answer a repeated one from its caches
and never encode or merge it. Numbers of requests and waiting times are bounded.

The question stands before the video, because otherwise the engine's own pruning cannot be measured
for models that put timestamps between frames: in vLLM 0.32 a request ends its engine if fewer
tokens precede a video than its first timestamp has (docs/vllm.md).
"""

from __future__ import annotations

import asyncio
import base64
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

QUESTION = "What happens in this video?"


class RequestError(RuntimeError):
    """A request that failed, or an answer that cannot be."""


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        prompt_tokens, completion_tokens: as the server's usage counts them.
        first_token_s: from sending the request to the first piece of text.
        total_s: to the last one.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    first_token_s: float
    total_s: float


@dataclass(frozen=True)
class Load:
    """What one level of concurrency gave; tokens are those of the answers."""

    concurrency: int
    requests: int
    requests_per_s: float
    tokens_per_s: float
    first_token_p50_ms: float
    first_token_p99_ms: float

    @classmethod
    def of(cls, concurrency: int, replies: Sequence[Reply], wall_s: float) -> Load:
        first = [1000 * reply.first_token_s for reply in replies]
        return cls(
            concurrency,
            len(replies),
            len(replies) / wall_s,
            sum(reply.completion_tokens for reply in replies) / wall_s,
            percentile(first, 50),
            percentile(first, 99),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` % of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Client:
    """Asks one server about one video.

    Args:
        base_url: up to and including ``/v1``.
        video: an mp4 file.
        max_tokens: tokens of every answer, neither more nor fewer.
        request_limit_s: after which a request counts as failed.
    """

    def __init__(
        self, base_url: str, video: Path, *, max_tokens: int, request_limit_s: float
    ) -> None:
        self._base_url = base_url
        self._video = "data:video/mp4;base64," + base64.b64encode(video.read_bytes()).decode()
        self._max_tokens = max_tokens
        self._limit_s = request_limit_s

    @property
    def health_url(self) -> str:
        """Answers with 200 while the engine lives."""
        return self._base_url.removesuffix("/v1") + "/health"

    def ask(self, retain: float | None = None) -> Reply:
        """One request on its own; ``retain`` is sent as the request's own share."""
        return self._run(1, 1, retain)[0][0]

    def load(self, concurrency: int, requests: int) -> Load:
        """:meth:`wave`, summed up."""
        return Load.of(concurrency, *self.wave(concurrency, requests))

    def wave(self, concurrency: int, requests: int) -> tuple[list[Reply], float]:
        """``requests`` requests, never more than ``concurrency`` under way; and how long they took
        together, in seconds.

        Raises:
            RequestError: a request failed, took too long, or its answer is not as long as asked.
        """
        return self._run(concurrency, requests, None)

    def _run(
        self, concurrency: int, requests: int, retain: float | None
    ) -> tuple[list[Reply], float]:
        return asyncio.run(self._all(concurrency, requests, retain))

    async def _all(
        self, concurrency: int, requests: int, retain: float | None
    ) -> tuple[list[Reply], float]:
        free = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(
            base_url=self._base_url, api_key="none", max_retries=0, timeout=self._limit_s
        ) as server:
            try:
                model = (await server.models.list()).data[0].id

                async def one() -> Reply:
                    async with free:
                        return await asyncio.wait_for(
                            self._stream(server, model, retain), self._limit_s
                        )

                start = time.perf_counter()
                replies = await asyncio.gather(*(one() for _ in range(requests)))
            except (openai.OpenAIError, httpx.HTTPError, asyncio.TimeoutError) as error:
                kind = type(error).__name__
                raise RequestError(f"{self._base_url}: a request failed: {kind} {error}") from error
            return replies, time.perf_counter() - start

    async def _stream(self, server: openai.AsyncOpenAI, model: str, retain: float | None) -> Reply:
        extra: dict[str, Any] = {"ignore_eos": True, "min_tokens": self._max_tokens}
        if retain is not None:
            extra["mm_processor_kwargs"] = {"prunevid_retain": retain}
        video = {"type": "video_url", "video_url": {"url": self._video}, "uuid": uuid.uuid4().hex}
        content: Any = [{"type": "text", "text": QUESTION}, video]
        start = time.perf_counter()
        stream = await server.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=self._max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        )
        pieces: list[str] = []
        first_token_s = usage = None
        async for chunk in stream:
            usage = chunk.usage or usage
            # The first chunk of a choice only names the role.
            if chunk.choices and chunk.choices[0].delta.content is not None:
                if first_token_s is None and chunk.choices[0].delta.role is None:
                    first_token_s = time.perf_counter() - start
                pieces.append(chunk.choices[0].delta.content)
        total_s = time.perf_counter() - start
        if first_token_s is None or usage is None:
            raise RequestError(f"{self._base_url}: an answer came without text or without usage")
        if usage.completion_tokens != self._max_tokens:
            raise RequestError(
                f"{self._base_url}: an answer must have {self._max_tokens} tokens, "
                f"got {usage.completion_tokens}"
            )
        return Reply(
            "".join(pieces), usage.prompt_tokens, usage.completion_tokens, first_token_s, total_s
        )
