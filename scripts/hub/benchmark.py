"""The merge and the scoring at the shapes of a 7B model, held to the reference.

Run by the command ``kernels benchmark`` of the kernels package.
"""

import torch
from kernels.benchmark import Benchmark


class PruneVidBenchmark(Benchmark):
    seed = 0
    frames, tokens, channels = 16, 144, 4096
    heads, question, head_size = 32, 20, 128
    dtype = torch.bfloat16

    def setup(self) -> None:
        shape = (self.frames, self.tokens, self.channels)
        still = torch.randn(1, *shape[1:], device=self.device)  # most of a video hardly changes
        noise = torch.randn(shape, device=self.device)
        self.features = (still + 0.1 * noise).to(self.dtype)
        self.config = self.kernel.PruneVidConfig(budget=0.4)
        visual = self.frames * self.tokens
        made = {"device": self.device, "dtype": self.dtype}
        self.query = torch.randn(1, self.heads, self.question, self.head_size, **made)
        self.key = torch.randn(1, self.heads, visual + self.question, self.head_size, **made)
        self.video = slice(0, visual)

    def benchmark_merge(self) -> None:
        self.out = self.kernel.merge_video(self.features, self.config).tokens

    def verify_merge(self) -> torch.Tensor:
        return self.kernel.merge_video(self.features, self.config, impl="reference").tokens

    def benchmark_score(self) -> None:
        self.out = self.kernel.score_visual_tokens(self.query, self.key, self.video)

    def verify_score(self) -> torch.Tensor:
        return self.kernel.score_visual_tokens(self.query, self.key, self.video, impl="reference")
