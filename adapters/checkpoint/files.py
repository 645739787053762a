"""The tensors of a checkpoint folder: what there is, and one file of it at a time.

Folders as ``save_pretrained`` writes them: ``model.safetensors`` or ``pytorch_model.bin``, or
several files with an index. An index is written by whoever made the checkpoint, so it is checked,
not believed: names that lead out of the folder, files that are not there, tensors in other files
than it says are all errors. Headers alone are read until a tensor is asked for. ``.bin`` files are
pickles; they are read with torch's restricted unpickler and never with the full one, which would
run whatever the file says.

transformers' own loader does much of this inside ``from_pretrained``, but not for models whose
tensors have to be renamed, folded or joined on the way, and it leaves at random what is missing.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .json_text import parse_json, read_bytes, require_text

_SINGLE = ("model.safetensors", "pytorch_model.bin")


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file and what is wrong."""


def no_such_folder(folder: Path) -> CheckpointError:
    """The error about a checkpoint folder that is not there."""
    return CheckpointError(f"{folder}: no such model folder{folder_hint(folder)}")


def folder_hint(folder: Path) -> str:
    """What to do about a folder that is not there, as the end of an error: the folder that was
    probably meant, or how to get what looks like the name of a published checkpoint; else empty."""
    try:
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        beside = []
    near = get_close_matches(folder.name, beside, n=1)
    if near:
        return f"; did you mean {folder.parent / near[0]}?"
    if folder.parent == Path(PLACEHOLDER):
        return f"; docs/families.md has the command that gets each model into {PLACEHOLDER}/"
    if _PUBLISHED_NAME.fullmatch(str(folder)) and not folder.parent.is_dir():
        place = f"{PLACEHOLDER}/{folder.name}"
        return (
            "; nothing is downloaded here: if it is a published checkpoint, get it with"
            f" `hf download {folder} --local-dir {place}`, then give {place}"
        )
    return ""


PLACEHOLDER = "MODELS"
"""Where README and docs put checkpoints."""

# ORGANISATION/NAME, as model hubs have it.
_PUBLISHED_NAME = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose files are whole and agree with each other.

    Attributes:
        folder: where it is.
        tensors: every tensor by its key.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def files(self) -> list[Path]:
        return sorted({tensor.file for tensor in self.tensors.values()})

    @property
    def dtype(self) -> torch.dtype | None:
        """That of all floating-point tensors; None where they differ."""
        dtypes = {t.dtype for t in self.tensors.values() if t.dtype.is_floating_point}
        return dtypes.pop() if len(dtypes) == 1 else None

    def read(self, file: Path, keys: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of one file, in its order, one at a time, on the CPU and in their stored dtype.

        They are mapped from the file: a tensor that is kept keeps all of the file mapped, so copy
        what is to stay.
        """
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():
                    if key in keys:
                        yield key, opened.get_tensor(key)
        else:
            for key, tensor in _load_pickle(file, "cpu").items():
                if key in keys:
                    yield key, tensor


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the index and the headers of a checkpoint folder.

    Where a folder has both safetensors and ``.bin`` files, the former are taken.

    Raises:
        CheckpointError: no such folder, no weights in it, both a single file and an index, an index
            that is damaged, leads out of the folder or disagrees with the files, a file that is
            missing, truncated, or a pickle of more than tensors.
    """
    if not folder.is_dir():
        raise no_such_folder(folder)
    for name in _SINGLE:
        single, index = folder / name, folder / f"{name}.index.json"
        if single.is_file() and index.is_file():
            raise CheckpointError(f"{folder}: both {name} and {index.name}; remove the stale one")
        if single.is_file():
            return Checkpoint(folder, _header(single))
        if index.is_file():
            return Checkpoint(folder, _read_sharded(folder, index))
    raise CheckpointError(
        f"{folder}: no weights; none of "
        + ", ".join(f"{name}, {name}.index.json" for name in _SINGLE)
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: no such file, no valid JSON, a key twice in one object, strings that are
            no text, no object.
    """
    try:
        value = parse_json(read_bytes(file), object_pairs_hook=_without_repeats)
        require_text(value)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: must hold a JSON object, got {type(value).__name__}")
    return value


def require_int(place: str, value: object, least: int, most: int) -> None:
    """Refuse a value of a config that is no integer of a range.

    Args:
        place: file and name of the value.
        value: what the file has.
        least, most: the range, both ends included.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise CheckpointError(
            f"{place} must be an integer from {least} to {most}, got {value!r:.80}"
        )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} comes twice")
    return result


def _read_sharded(folder: Path, index: Path) -> dict[str, StoredTensor]:
    """The tensors that the files of an index hold, which must be those that it lists."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{index}: must hold a weight_map of keys to file names")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for key, name in listed.items():
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != suffix:
            raise CheckpointError(
                f"{index}: {key} must be in a {suffix} file of this folder, got {name!r}"
            )
    names = sorted(set(listed.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{folder}: {len(absent)} of the {len(names)} files in {index.name} are not there: "
            + ", ".join(absent)
        )
    found: dict[str, StoredTensor] = {}
    for name in names:
        for key, tensor in _header(folder / name).items():
            if key in found:
                raise CheckpointError(
                    f"{folder}: {key} is in both {found[key].file.name} and {name}"
                )
            if listed.get(key) != name:
                raise CheckpointError(
                    f"{folder / name}: holds {key}, for which {index.name} has "
                    f"{listed.get(key, 'no file')}"
                )
            found[key] = tensor
    for key, name in listed.items():
        if key not in found:
            raise CheckpointError(f"{folder / name}: has no {key}, which {index.name} lists")
    return found


def _header(file: Path) -> dict[str, StoredTensor]:
    """Shapes and dtypes of a file's tensors, without their data."""
    if file.suffix != ".safetensors":
        return {
            key: StoredTensor(tuple(tensor.shape), tensor.dtype, file)
            for key, tensor in _load_pickle(file, "meta").items()
        }
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}
            return {
                key: StoredTensor(tuple(part.get_shape()), _DTYPES[part.get_dtype()], file)
                for key, part in slices.items()
            }
    except SafetensorError as error:
        raise CheckpointError(f"{file}: truncated or damaged: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{file}: tensors of dtype {error} are not supported") from error


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def _load_pickle(file: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a ``.bin`` file; on "cpu" mapped from it, on "meta" without data."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError(
            f"{file}: truncated, or not written by torch.save of torch 1.6 or later"
        )
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file}: refused: this pickle needs more than tensors, and reading it could run any "
            "code; convert it to safetensors where it came from"
        ) from error
    except Exception as error:  # a malformed pickle raises what its opcodes stumble over
        raise CheckpointError(f"{file}: truncated or damaged: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: must hold a dict of tensors, got {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{file}: must hold tensors by name, got {type(value).__name__} at {key!r:.80}"
            )
        if value.layout is not torch.strided or value.is_quantized:
            raise CheckpointError(f"{file}: {key} must be a dense tensor, got {value.layout}")
    return content


def reason_of(error: BaseException) -> str:
    """An error of somebody else's in one line: its first words, or its kind where it has none."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{type(error).__name__}: {lines[0]}" if isinstance(error, KeyError) else lines[0]


@contextmanager
def refusing(folder: Path) -> Iterator[None]:
    """What others' code (transformers, tokenizers, a chat template) raises about a folder's files
    is a refusal of the folder. They raise whatever a hostile or damaged file makes them stumble
    over, bare ``Exception`` among it, so no list of classes would do.

    Raises:
        CheckpointError: in place of any other error.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be loaded: {reason_of(error)}"
        ) from error
