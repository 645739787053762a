"""Write the core as a kernel for the Hub, a folder that the ``kernels`` package loads.

    python scripts/hub_kernel.py OUT [--name prunevid] [--version 1]

Several versions of a kernel live in one process there, each loaded from a folder that no import
path names. So two things of the core cannot stay as they are: its absolute imports become relative
ones, and the namespace of its torch ops becomes one that only these sources have (the builder gives
its own by the same two names of ``_ops.py``). Everything else is copied.

OUT gets ``build.toml``, ``CARD.md``, the sources below ``torch-ext/`` for who builds it again, and
the finished variants below ``build/``. The kernels are Triton's, so every variant has the same
files: nothing is compiled. The adapters and benchmarks are no part of it: a kernel may need torch
and Triton only, which is checked here.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import keyword
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = "prunevid_kernels"
TEMPLATES = ROOT / "scripts" / "hub"
BACKENDS = ("cpu", "cuda", "rocm")
ALLOWED = {*sys.stdlib_module_names, "torch", "triton"}
NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
LONGEST_NAME = 96  # of a repository on the Hub
_OPS = "_ops"
_NAMESPACE = "prunevid"

OPS_MODULE = '''"""The namespace of this build's torch ops, which no other build has."""

import torch

ops = torch.ops.{namespace}


def add_op_namespace_prefix(op_name: str) -> str:
    """The full name of an op of this build."""
    return f"{namespace}::{{op_name}}"
'''


class HubKernelError(ValueError):
    """The core, or what was asked for, cannot be a Hub kernel; the message is one line."""


def write_hub_kernel(out: Path, name: str = "prunevid", version: int = 1) -> list[Path]:
    """Write the folder.

    Args:
        out: must not exist, or be empty.
        name: of the kernel: 2 to 96 small letters, digits and dashes, which with underscores for
            dashes is no keyword of Python.
        version: of its interface, as ``get_kernel(..., version=...)`` asks for it.

    Returns:
        The folders of the variants.

    Raises:
        HubKernelError: a name or version that no kernel can have; a folder that is not empty;
            sources that import anything but the standard library, torch and Triton.
        OSError: it cannot be written; then nothing of it is left.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise HubKernelError(
            f"name must be 2 to {LONGEST_NAME} small letters, digits and dashes, the first a letter"
            f" and the last no dash, got {name!r:.60}, {len(name)} of them"
        )
    if keyword.iskeyword(name):
        raise HubKernelError(
            f"name must be one that Python can import; {name!r} is a keyword of its own"
        )
    if version < 1:
        raise HubKernelError(f"version must be an integer >= 1, got {version}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HubKernelError(f"{out}: must be an empty folder, or none yet")
    files = core_files()
    was_there = out.exists()
    try:
        return _write_all(out, name, version, files)
    except BaseException:
        # Half a kernel would look like one, and stand in the way of the next try.
        for path in [*out.iterdir()] if out.exists() else []:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if out.exists() and not was_there:
            out.rmdir()
        raise


def _write_all(out: Path, name: str, version: int, files: dict[str, bytes]) -> list[Path]:
    """What :func:`write_hub_kernel` does, into a folder that may be written to."""
    python_name = name.replace("-", "_")
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    filled = {"NAME": name, "PYTHON_NAME": python_name, "VERSION": version, "BACKENDS": backends}
    for template in ("build.toml", "CARD.md"):
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        for key, value in filled.items():
            text = text.replace(f"@{key}@", str(value))
        _write(out / template, text.encode())
    _write(out / "benchmarks" / "benchmark.py", (TEMPLATES / "benchmark.py").read_bytes())
    for legal in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / legal, out / legal)
    variants = []
    _write_files(out / "torch-ext" / python_name, files)  # the builder adds its own _ops.py
    for backend in BACKENDS:
        variant = out / "build" / f"torch-{backend}"
        namespace = build_id(name, version, backend, files)
        _write_files(variant, files)
        _write(variant / f"{_OPS}.py", OPS_MODULE.format(namespace=namespace).encode())
        metadata = {
            "id": namespace,
            "name": name,
            "version": version,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": backend},
        }
        _write(variant / "metadata.json", (json.dumps(metadata, indent=2) + "\n").encode())
        variants.append(variant)
    return variants


def build_id(name: str, version: int, backend: str, files: dict[str, bytes]) -> str:
    """The name that no other build has: of its module, and the namespace of its ops.

    Args:
        name: of the kernel.
        version: of its interface.
        backend: of the variant.
        files: its sources, see :func:`core_files`.
    """
    digest = hashlib.sha256(f"{name} {version}".encode())
    for path, content in sorted(files.items()):
        digest.update(f"\0{path}\0".encode() + content)
    return f"_{name.replace('-', '_')}_{backend}_{digest.hexdigest()[:10]}"


def core_files() -> dict[str, bytes]:
    """Path inside the core -> content, Python made relative.

    Raises:
        HubKernelError: see :func:`relative`.
    """
    core = ROOT / CORE
    files = {}
    for path in sorted(core.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            place = path.relative_to(core)
            content = path.read_bytes()
            files[place.as_posix()] = relative(content, place) if path.suffix == ".py" else content
    return files


def relative(source: bytes, place: Path) -> bytes:
    """A module of the core with relative imports, and the ops' namespace left to ``_ops.py``.

    Args:
        source: the module, UTF-8.
        place: its path inside the core.

    Raises:
        HubKernelError: it imports something else than the core by ``from ... import``, the standard
            library, torch or Triton.
    """
    tree = ast.parse(source)
    dots = "." * len(place.parts)
    # (first byte, end, replacement); offsets of ast are of UTF-8 bytes.
    edits: list[tuple[int, int, bytes]] = []
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    imported: set[str] = set()
    first_import: int | None = None
    in_texts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }

    def span(node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin = starts[node.lineno - 1] + node.col_offset
        return begin, starts[node.end_lineno - 1] + node.end_col_offset

    def replace(node: ast.expr, text: bytes, name: str) -> None:
        edits.append((*span(node), text))
        imported.add(name)

    _require_no_names(tree, place)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _require_allowed(alias.name, place)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module.partition(".")[0] != CORE:
                _require_allowed(module, place)
                continue
            begin, _ = span(node)
            old = b"from " + module.encode()
            assert source[begin:].startswith(old)
            inner = module.partition(".")[2]
            edits.append((begin, begin + len(old), f"from {dots}{inner}".encode()))
            if node.col_offset == 0 and (first_import is None or begin < first_import):
                first_import = begin
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == f"torch.ops.{_NAMESPACE}":
            replace(node, b"ops", "ops")
        elif isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in in_texts:
            begin, end = span(node)
            text = source[begin:end]
            head = re.match(rb"f?([\"'])" + _NAMESPACE.encode() + rb"::", text)
            if head:
                name = text.replace(f"{_NAMESPACE}::".encode(), b"", 1)
                name = name if b"{" in name else name.removeprefix(b"f")
                replace(node, b"add_op_namespace_prefix(" + name + b")", "add_op_namespace_prefix")
    if imported:
        assert first_import is not None
        line = f"from {dots}{_OPS} import {', '.join(sorted(imported))}\n"
        edits.append((first_import, first_import, line.encode()))
    for begin, end, text in sorted(edits, reverse=True):
        source = source[:begin] + text + source[end:]
    return source


def _require_allowed(module: str, place: Path) -> None:
    root = module.partition(".")[0]
    if root not in ALLOWED:
        raise HubKernelError(
            f"{CORE}/{place}: a Hub kernel imports the standard library, torch and Triton, and "
            f"itself by `from ... import`; got {module}"
        )


def _require_no_names(tree: ast.Module, place: Path) -> None:
    """Refuse a module of the core that is named in a text, as for ``import_module``: it would be
    looked for outside the kernel. Texts that are statements are docstrings."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            if node.value.startswith(f"{CORE}."):
                raise HubKernelError(
                    f"{CORE}/{place}: line {node.lineno} names a module of the core in a text; "
                    f"take __name__ or a relative import, got {node.value!r:.60}"
                )


def _write_files(folder: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        _write(folder / path, content)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the core as a kernel for the Hub.")
    parser.add_argument("out", type=Path, help="folder to write; must not exist, or be empty")
    parser.add_argument("--name", default="prunevid", help="of the kernel (default: prunevid)")
    parser.add_argument("--version", type=int, default=1, help="of its interface (default: 1)")
    given = parser.parse_args()
    try:
        variants = write_hub_kernel(given.out, given.name, given.version)
    except HubKernelError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename or given.out}: {error.strerror or error}")
    for variant in variants:
        print(variant)


if __name__ == "__main__":
    main()
