"""What a user writes is text: it never becomes a control token of the model.

Tokenizers look for the names of their special tokens in whatever they are given, so a question that
holds ``<|im_end|>`` would end the user's turn and begin another. In a rendered prompt nothing tells
the template's tokens from the user's. So the template is rendered with stand-ins for what the user
wrote like a special token; what it has then is its own, and the text between is encoded on its own,
special tokens split into characters. A prompt without such words goes through the tokenizer in one
piece, as it always did: the way of splitting must not change a token of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

# Beside a number, these stand for a special token that is text; of Unicode's private use area.
_OPEN, _CLOSE = "\uf2a0", "\uf2a1"


def require_text(name: str, text: object) -> None:
    """Refuse what no tokenizer can read.

    Raises:
        TypeError: no string.
        ValueError: a lone surrogate, which no text in UTF-8 can hold.
    """
    if not isinstance(text, str):
        raise TypeError(f"the {name} must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the {name} must be text, got the lone surrogate U+{ord(text[error.start]):04X} at "
            f"character {error.start}"
        ) from error


def encode_prompt(
    tokenizer: Any,
    render: Callable[[Sequence[str]], str],
    texts: Sequence[str],
    *,
    add_special_tokens: bool,
) -> list[int]:
    """The tokens of a template with texts of the user, none of which becomes a control token.

    Args:
        tokenizer: of transformers, with the library ``tokenizers`` underneath.
        render: puts the texts into the template.
        texts: of the user, in the order that ``render`` takes.
        add_special_tokens: whether the tokenizer puts its own in front of the prompt.

    Returns:
        The ids.

    Raises:
        ValueError: a control token in a text that this vocabulary cannot write as text.
    """
    names = _special_tokens(tokenizer)
    if not any(_reads_control(tokenizer, names, text) for text in texts):
        return tokenizer(render(texts), add_special_tokens=add_special_tokens).input_ids
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    order = list(names)
    prompt = render([_with_stand_ins(text, pattern, order) for text in texts])
    ids = list(tokenizer("").input_ids) if add_special_tokens else []
    start = 0
    for match in pattern.finditer(prompt):
        ids += _text_ids(tokenizer, names, prompt[start : match.start()], order)
        ids.append(names[match[0]])
        start = match.end()
    return ids + _text_ids(tokenizer, names, prompt[start:], order)


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    found = {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    found |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # A file may name one that the vocabulary does not have.
    return {name: index for name, index in found.items() if name and index is not None}


def _controls(tokenizer: Any, names: dict[str, int]) -> set[int]:
    """All of them but the one that stands for what the vocabulary does not know."""
    return set(names.values()) - {tokenizer.unk_token_id}


def _reads_control(tokenizer: Any, names: dict[str, int], text: str) -> bool:
    """By the ids too: a normaliser may turn other letters into a special token's name."""
    if any(name in text for name in names):
        return True
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return not _controls(tokenizer, names).isdisjoint(ids)


def _with_stand_ins(text: str, pattern: re.Pattern[str], order: list[str]) -> str:
    return pattern.sub(lambda match: f"{_OPEN}{order.index(match[0])}{_CLOSE}", text)


def _text_ids(tokenizer: Any, names: dict[str, int], text: str, order: list[str]) -> list[int]:
    """The ids of a stretch of the prompt, special tokens in it taken for text."""
    if not text:
        return []
    written = re.sub(f"{_OPEN}([0-9]{{1,4}}){_CLOSE}", lambda match: _name(match, order), text)
    ids = tokenizer(written, add_special_tokens=False, split_special_tokens=True).input_ids
    controls = _controls(tokenizer, names)
    if controls.isdisjoint(ids):
        return ids
    # A vocabulary of whole words has them as words.
    if tokenizer.unk_token_id is None:
        found = tokenizer.convert_ids_to_tokens(next(i for i in ids if i in controls))
        raise ValueError(f"the prompt must not contain the control token {found!r}")
    return [tokenizer.unk_token_id if i in controls else i for i in ids]


def _name(match: re.Match[str], order: list[str]) -> str:
    index = int(match[1])
    return order[index] if index < len(order) else match[0]
