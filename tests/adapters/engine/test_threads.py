"""One pruned model in several threads: calls are a thread's own, the modules' hooks are shared."""

from __future__ import annotations

import threading

import torch
from tiny_models import CONFIG, generate, question, text_tokens

from prunevid_kernels.adapters import prune


def test_two_threads_on_one_model(model):
    """One thread's prompt does not meet the other's hooks."""
    inputs = [question(8, 1), {"input_ids": torch.tensor([text_tokens(20)])}, question(6, 2)]
    with prune(model, CONFIG):
        expected = [generate(model, each).sequences for each in inputs]
        results: dict[int, list[torch.Tensor]] = {}

        def work(index: int) -> None:
            with torch.no_grad():
                results[index] = [generate(model, inputs[index]).sequences for _ in range(6)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, sequences in results.items():
        assert all(each.equal(expected[index]) for each in sequences)
    assert len(results) == 3


def test_another_thread_meets_hooks_that_are_half_up(model):
    """torch puts up and takes down a hook in two steps; between them it gets no kwargs."""
    video, text = question(8, 1), {"input_ids": torch.tensor([text_tokens(20)])}
    results = []

    def take_kwargs() -> list[dict[int, bool]]:
        """Per layer: which hooks are called with kwargs."""
        pairs = (
            (each._forward_hooks_with_kwargs, each._forward_pre_hooks_with_kwargs)
            for each in model.get_decoder().layers
        )
        return [each for pair in pairs for each in pair]

    def generate_in_a_thread(*_: object) -> None:
        hook.remove()
        of_the_prompt = [dict(each) for each in take_kwargs()]
        assert of_the_prompt != lasting
        for each, own in zip(take_kwargs(), lasting, strict=True):
            each.clear()
            each.update(own)
        thread = threading.Thread(target=lambda: results.append(generate(model, text).sequences))
        thread.start()
        thread.join()
        for each, own in zip(take_kwargs(), of_the_prompt, strict=True):
            each.update(own)

    with prune(model, CONFIG):
        expected = [generate(model, each).sequences for each in (text, video)]
        lasting = [dict(each) for each in take_kwargs()]
        first = model.get_decoder().layers[0].self_attn
        hook = first.register_forward_hook(generate_in_a_thread)
        results.append(generate(model, video).sequences)
    assert len(results) == 2
    assert all(each.equal(other) for each, other in zip(results, expected, strict=True))
