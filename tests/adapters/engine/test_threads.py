"""One pruned model in several threads: calls are a thread's own, the modules' hooks are shared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import CONFIG, generate, question, text_tokens

from prunevid_kernels.adapters import PruneHandle, prune

# Hooks of torch and threads of Python: the model could be any.
pytestmark = pytest.mark.one_version


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


def in_a_thread(act: Callable[[], Any]) -> Any:
    """What ``act`` gives, or raises, in a thread of its own."""
    results: list[Any] = []

    def run() -> None:
        try:
            with torch.no_grad():
                results.append(act())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


WHERE = ["vision_tower", "language_model.layers.0", "language_model.layers.1"]


def during(model, where: str, act: Callable[[], Any]) -> Any:
    """Have ``act`` run in another thread while this one is at the end of a module, once."""

    def hook(*_: object) -> None:
        handle.remove()
        in_a_thread(act)

    handle = model.model.get_submodule(where).register_forward_hook(hook)
    return handle


@pytest.mark.parametrize("where", WHERE)
def test_pruned_in_the_middle_of_a_prompt(model, where):
    """The sequence that began unpruned goes on so, and leaves no record that says otherwise."""
    plain = model(**question())
    token = torch.tensor([[9]])
    following = model(input_ids=token, past_key_values=plain.past_key_values).logits
    handles: list[PruneHandle] = []
    during(model, where, lambda: handles.append(prune(model, CONFIG)))
    result = model(**question())
    assert result.logits.equal(plain.logits)
    assert model(input_ids=token, past_key_values=result.past_key_values).logits.equal(following)
    assert handles[0].report.calls == []
    model(**question())
    handles[0].remove()
    assert len(handles[0].report.pruned_calls) == 1


@pytest.mark.parametrize("where", WHERE)
def test_restored_in_the_middle_of_a_prompt(model, where):
    """The prompt that began pruned ends so; the hooks go with it."""
    plain = model(**question()).logits
    handle = prune(model, CONFIG)
    expected = model(**question()).logits
    during(model, where, handle.remove)
    result = model(**question())
    assert result.logits.equal(expected)
    assert len(handle.report.pruned_calls) == 2
    assert not model.model.language_model._forward_pre_hooks
    assert model(**question()).logits.equal(plain)
    with pytest.raises(RuntimeError, match="its model no longer is"):
        model(input_ids=torch.tensor([[9]]), past_key_values=result.past_key_values)


def test_pruned_anew_in_the_middle_of_a_pruned_prompt(model):
    with prune(model, CONFIG):
        expected = model(**question()).logits
    handles = [prune(model, CONFIG)]

    def restore_and_prune() -> None:
        handles[0].remove()
        handles.append(prune(model, CONFIG))

    during(model, "language_model.layers.0", restore_and_prune)
    assert model(**question()).logits.equal(expected)
    assert [len(each.report.pruned_calls) for each in handles] == [1, 0]
    assert model(**question()).logits.equal(expected)
    handles[1].remove()
    assert [len(each.report.pruned_calls) for each in handles] == [1, 1]


def test_prune_and_remove_while_threads_generate(model):
    """Each answer is the pruned or the unpruned one, or an error that says what happened."""
    inputs = question(6, 2)
    plain = generate(model, inputs, tokens=3).sequences
    with prune(model, CONFIG):
        pruned = generate(model, inputs, tokens=3).sequences
    assert not plain.equal(pruned)
    outcomes: list[str] = []
    is_over = threading.Event()

    def work() -> None:
        with torch.no_grad():
            while not is_over.is_set():
                try:
                    result = generate(model, inputs, tokens=3).sequences
                except RuntimeError as error:
                    assert "its model no longer is" in str(error)
                    outcomes.append("refused")
                except BaseException as error:
                    outcomes.append(repr(error))
                else:
                    found = [
                        n for n, e in (("plain", plain), ("pruned", pruned)) if result.equal(e)
                    ]
                    outcomes.append(*found or ["neither"])

    def moment() -> None:
        is_over.wait(0.02)

    def four_answers() -> None:
        count = len(outcomes) + 4
        while len(outcomes) < count and all(thread.is_alive() for thread in threads):
            moment()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    # In turn for moments, and for as long as both threads need for an answer from end to end.
    for wait in (moment, four_answers) * 4:
        handle = prune(model, CONFIG)
        wait()
        handle._engine.remove()
        wait()
    is_over.set()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"plain", "pruned", "refused"}
    assert {"plain", "pruned"} <= set(outcomes)
