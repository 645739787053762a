"""Triton's interpreter without work that it does again and again.

Most of the interpreter's time goes into what never changes: before every launch, and before every
call of a ``@triton.jit`` function from a kernel, it goes through all of ``triton.language`` for
the builtins to replace; for every value it builds the table of NumPy's types, the type of the block
and the shape anew; for every operation it finds out what two types and shapes give; and with seven
more operations on blocks it finds out whether integers overflow, which it then tells nobody. Here
each is done once and remembered, left out where nothing changes, or done by NumPy. What runs in a
kernel, and in which order, stays Triton's own: tests/core/test_quick_interpreter.py compares both.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

search_builtins = interpreter._patch_builtin
search_dtype = interpreter._get_np_dtype
patch_attribute = interpreter._patch_attr
patch_all = interpreter._patch_lang
new_block_type = tl.block_type.__init__
new_tensor = tl.tensor.__init__
check_overflow = TritonSemantic.binary_op_sanitize_overflow_impl
same_dtype = tl.dtype.__eq__
unwrap_all = tl.core._unwrap_if_constexpr
find_computation_type = TritonSemantic.computation_type_impl
convert_sides = TritonSemantic.binary_op_type_checking_impl
expand_sides = TritonSemantic.broadcast_impl_value
new_handle = interpreter.TensorHandle.__init__


def install() -> None:
    """Put the quick forms in place; once a process, before the first launch."""
    for package in (tl, tl.core, tl.tensor, tl.math):
        builtins_of(package)
    for owner, name, quick, _ in forms():
        setattr(owner, name, quick)


def forms() -> list[tuple[Any, str, Any, Any]]:
    """Where each stands: owner, name, the quick form, Triton's own."""
    return [
        (interpreter, "_patch_builtin", patch_builtin, search_builtins),
        (interpreter, "_patch_attr", patch_attr, patch_attribute),
        (interpreter, "_patch_lang", patch_lang, patch_all),
        (interpreter, "_get_np_dtype", numpy_dtype, search_dtype),
        (tl.block_type, "__init__", block_type_init, new_block_type),
        (tl.tensor, "__init__", tensor_init, new_tensor),
        (
            TritonSemantic,
            "binary_op_sanitize_overflow_impl",
            sanitize_overflow,
            check_overflow,
        ),
        (tl.dtype, "__eq__", dtype_equal, same_dtype),
        (tl.core, "_unwrap_if_constexpr", unwrap, unwrap_all),
        (TritonSemantic, "computation_type_impl", computation_type, find_computation_type),
        (TritonSemantic, "binary_op_type_checking_impl", sides, convert_sides),
        (TritonSemantic, "broadcast_impl_value", broadcast, expand_sides),
        (interpreter.TensorHandle, "__init__", handle_init, new_handle),
    ]


# ------------------------------------------------------------------------------------------------
# What a launch replaces in triton.language
# ------------------------------------------------------------------------------------------------


@functools.cache
def builtins_of(package: Any) -> tuple[str, ...]:
    """The builtins of a module or class of ``triton.language``; asked before one is replaced."""
    return tuple(name for name in dir(package) if tl.core.is_builtin(getattr(package, name)))


def patch_builtin(package: Any, *arguments: Any) -> None:
    """``interpreter._patch_builtin``: replace the builtins that are not replaced yet. All are where
    the first is: it searches no further then."""
    names = builtins_of(package)
    if names and tl.core.is_builtin(getattr(package, names[0])):
        for name in names:
            member = getattr(package, name)
            if tl.core.is_builtin(member):
                interpreter._patch_attr(package, name, member, *arguments)


def patch_attr(package: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """``interpreter._patch_attr``: the builtin with the interpreter's semantic, handed over without
    a copy of the other keywords, and not asked whether it is there."""
    semantic = interpreter.interpreter_semantic
    function = getattr(member, "__wrapped__", member)

    def new_member(*args: Any, member: Any = member, **kwargs: Any) -> Any:
        kwargs["_semantic"] = semantic
        return function(*args, **kwargs)

    scope.set_attr(package, name, new_member)


class _Scope(interpreter._LangPatchScope):  # type: ignore[misc]
    """What a launch has replaced, until it ends."""

    def __init__(self, scope: Any) -> None:
        self._changes = scope._changes

    def restore(self) -> None:
        super().restore()
        _replaced.clear()


_replaced: set[str] = set()  # modules of the language, while a launch runs


@functools.cache
def _modules_of(function: Any) -> frozenset[str]:
    """The modules of the language that a kernel's file names."""
    values = function.__globals__.values()
    return frozenset(v.__name__ for v in values if inspect.ismodule(v) and v in (tl, tl.core))


def patch_lang(function: Any) -> Any:
    """``interpreter._patch_lang``: a function that a kernel calls finds its language replaced
    already. Triton restores what a launch has replaced, and nothing that such a function has."""
    modules = _modules_of(function)
    if modules and modules <= _replaced:
        return interpreter._LangPatchScope()
    is_launch = not _replaced
    _replaced.update(modules)
    scope = patch_all(function)
    return _Scope(scope) if is_launch else scope


# ------------------------------------------------------------------------------------------------
# Types and shapes of values
# ------------------------------------------------------------------------------------------------


@functools.cache
def _of_a_number(dtype: tl.dtype) -> np.dtype:
    return search_dtype(dtype)


def numpy_dtype(dtype: tl.dtype) -> np.dtype:
    """``interpreter._get_np_dtype``: the type of the array that holds values of ``dtype``."""
    scalar = dtype.scalar
    return search_dtype(scalar) if isinstance(scalar, tl.pointer_type) else _of_a_number(scalar)


_block_types: dict[Any, dict[str, Any]] = {}
_shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}


def block_type_init(self: Any, element_ty: tl.dtype, shape: Any) -> None:
    """``tl.block_type``: its fields are made once for each type of number and shape."""
    sizes = shape.values if type(shape) is tl.tuple else shape
    if type(element_ty) is not tl.dtype:  # of pointers, whose types are made anew
        new_block_type(self, element_ty, shape)
        return
    key = (element_ty.name, *sizes)
    fields = _block_types.get(key)
    if fields is not None:
        self.__dict__.update(fields)
        return
    new_block_type(self, element_ty, shape)
    if all(type(size) is int for size in sizes):  # a shape may still hold constants
        _block_types[key] = self.__dict__ | {"_tensor_shape": _tensor_shape(tuple(sizes))}


def _tensor_shape(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """A tensor's shape and its number of elements, as its fields hold them."""
    known = _shapes.get(sizes)
    if known is None:
        shape = tl.tuple([tl.constexpr(size) for size in sizes])
        known = _shapes[sizes] = (shape, tl.constexpr(math.prod(sizes)))
    return known


def tensor_init(self: Any, handle: Any, type: tl.dtype) -> None:
    """``tl.tensor``: its shape and its number of elements are made once for each shape."""
    self.handle = handle
    self.type = type
    self.dtype = type.scalar
    known = type.__dict__.get("_tensor_shape")
    if known is None:
        known = _tensor_shape(tuple(type.shape) if type.is_block() else ())
    self.shape, self.numel = known


def dtype_equal(self: tl.dtype, other: Any) -> bool:
    """``tl.dtype.__eq__``: most are compared with themselves."""
    return self is other or same_dtype(self, other)


def unwrap(value: Any) -> Any:
    """``tl.core._unwrap_if_constexpr``: what is no constant and has no parts is itself."""
    kind = type(value)
    if kind is tl.constexpr:
        return value.value
    return value if kind is tl.tensor or kind is int or kind is tl.dtype else unwrap_all(value)


_computation_types: dict[tuple[Any, ...], tl.dtype] = {}


def computation_type(
    self: Any, a: tl.dtype, a_is_scalar: bool, b: tl.dtype, b_is_scalar: bool, div_or_mod: bool
) -> tl.dtype:
    """The type that an operation computes in: found once for each pair of types of numbers."""
    key = (a.name, a_is_scalar, b.name, b_is_scalar, div_or_mod)
    found = _computation_types.get(key)
    if found is None:
        found = find_computation_type(self, a, a_is_scalar, b, b_is_scalar, div_or_mod)
        _computation_types[key] = found
    return found


def sides(self: Any, lhs: Any, rhs: Any, *flags: bool, **named: bool) -> tuple[Any, Any]:
    """The two sides of an operation, converted to one type and one shape. Tensors keep their type
    where both have the same, and it is one that all operations compute in; what a number becomes
    beside a tensor is made once for each number, type and shape."""
    if type(lhs) is not tl.tensor:
        pass
    elif type(lhs.dtype) is tl.pointer_type:
        # The first flag says that the left side may be one.
        if flags and flags[0] and type(rhs) is tl.tensor and rhs.dtype.name in _OFFSETS:
            return broadcast(self, lhs, rhs)
    elif type(lhs.dtype) is tl.dtype:
        if type(rhs) is tl.tensor:
            name = lhs.dtype.name
            if name in _COMPUTED and type(rhs.dtype) is tl.dtype and name == rhs.dtype.name:
                return broadcast(self, lhs, rhs)
        elif type(rhs) in _NUMBERS:
            key = (type(rhs), rhs, lhs.dtype.name, id(lhs.shape), flags, *named.items())
            known = _numbers.get(key)
            if known is not None:
                return lhs, known
            left, right = convert_sides(self, lhs, rhs, *flags, **named)
            if left is lhs:
                _numbers[key] = right
            return left, right
    return convert_sides(self, lhs, rhs, *flags, **named)


_OFFSETS = {"int32", "int64"}
_NUMBERS = (int, float, bool)
_numbers: dict[tuple[Any, ...], Any] = {}  # no operation writes into what it was given

# Half precision is divided in float32.
_COMPUTED = {dtype.name for dtype in (tl.int1, tl.int32, tl.int64, tl.float32, tl.float64)}


_broadcast: dict[tuple[int, int], tuple[int, ...] | None] = {}


def broadcast(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
    """``TritonSemantic.broadcast_impl_value``: both sides in one shape, which is found once for two
    shapes. Equal shapes are one object."""
    if lhs.shape is rhs.shape:
        return lhs, rhs
    key = (id(lhs.shape), id(rhs.shape))
    if key not in _broadcast:
        left, right = ([size.value for size in side.shape] for side in (lhs, rhs))
        try:
            _broadcast[key] = np.broadcast_shapes(left, right)
        except ValueError:
            _broadcast[key] = None
    sizes = _broadcast[key]
    if sizes is None:  # Triton says why not
        return expand_sides(self, lhs, rhs)
    return _expanded(lhs, sizes), _expanded(rhs, sizes)


def _expanded(value: Any, sizes: tuple[int, ...]) -> Any:
    if value.shape is _tensor_shape(sizes)[0]:
        return value
    data = value.handle.data
    if value.type.is_block():
        data = np.broadcast_to(data, sizes)
    else:
        data = np.full(sizes, data)
    handle = interpreter.TensorHandle(data, value.handle.dtype.scalar)
    return tl.tensor(handle, tl.block_type(value.dtype, list(sizes)))


_sizes: set[tuple[int, str]] = set()  # bytes of an array's element and type that go together


def handle_init(self: Any, data: np.ndarray, dtype: tl.dtype, attr: Any = None) -> None:
    """``TensorHandle``: an element's bytes are compared once with each type of number."""
    key = (data.itemsize, dtype.name) if type(dtype) is tl.dtype else None
    if key in _sizes:
        self.data, self.dtype, self.attr = data, dtype, {} if attr is None else attr
        return
    new_handle(self, data, dtype, {} if attr is None else attr)
    if key is not None:
        _sizes.add(key)


# ------------------------------------------------------------------------------------------------
# Overflow
# ------------------------------------------------------------------------------------------------

_EXACT = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def sanitize_overflow(self: Any, lhs: Any, rhs: Any, binary_op: Any) -> None:
    """Integers of up to 32 bits must not overflow. Triton computes this and, but for TRITON_DEBUG,
    does not look at it; here it is one step of NumPy, and an error.

    Raises:
        OverflowError: one has.
    """
    dtype = lhs.type.scalar
    if dtype.int_bitwidth >= 64:
        return
    sides = [side.handle.data.astype(np.int64) for side in (lhs, rhs)]
    exact = _EXACT[binary_op.__name__](*sides)
    if exact.max() > dtype.get_int_max_value() or exact.min() < dtype.get_int_min_value():
        raise OverflowError(f"int{dtype.int_bitwidth} overflow in {binary_op.__name__}")
