"""Kernel launches and host copies of a call, counted rather than timed.

Triton launches are counted where they all pass: ``JITFunction.run``, or the interpreter's grid
executor. Launches by torch are its operators that compute on device tensors; views, allocations and
work on host tensors launch nothing. On a GPU a tensor's device says which it is. Under the
interpreter everything lies in host memory, so the part of the GPU is played by the call's inputs,
by whatever a kernel is given, and by what operators make of those; what is copied into memory
that none of these made has gone to the host, and what the host filled itself has to be copied to
the device before a kernel can be given it. So the counts can be tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class LaunchCounts:
    """What a call asked of the device.

    Attributes:
        triton: launches of Triton kernels.
        torch: operators of torch that compute on the device; some take several launches.
        host_copies: copies from the device to the host, the reading of single values and of sizes
            included. (``tolist`` of a tensor that lies on a CPU passes no operator: not counted.)
        device_copies: copies from the host to the device that wait for all that the device still
            has to do, as a copy to the host does: those not from pinned memory, or not asked for as
            ``non_blocking``.
    """

    triton: int = 0
    torch: int = 0
    host_copies: int = 0
    device_copies: int = 0


def count_launches(
    work: Callable[[], Any], device: torch.device, inputs: Sequence[Tensor] = ()
) -> LaunchCounts:
    """Run ``work`` once and count.

    Args:
        device: where the tensors lie. On a CPU the Triton kernels have to run interpreted.
        inputs: on a CPU, the tensors that stand for device tensors from the start; those that a
            Triton kernel is given are found without.
    """
    counter = _Counter(device)
    for tensor in inputs:
        counter.adopt(tensor)
    with _triton_launches_reported_to(counter), counter:
        work()
    return counter.counts


# Operators that allocate or look, and compute nothing; views say so themselves.
_ALLOCATIONS = {
    "_unsafe_view",
    "_reshape_alias",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}
_FILLS = {"zeros", "ones", "full", "arange", "scalar_tensor", "zeros_like", "ones_like"}
_FILLS |= {"full_like", "new_zeros", "new_ones", "new_full"}
_FROM_HOST = "lift_fresh"  # torch.tensor and its like
_COPIES = {"copy_", "_to_copy"}
# Operators that hand a value, or the size of their result, to the host.
_READS = {"_local_scalar_dense", "equal", "is_nonzero"}
_DATA_DEPENDENT = {"nonzero", "masked_select", "bincount", "_unique2", "repeat_interleave"}


class _Counter(TorchDispatchMode):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.counts = LaunchCounts()
        self._is_gpu = device.type == "cuda"
        self._is_in_kernel = False
        # Storages that play the device's memory, and those a fill made that may turn out to be.
        # They are kept alive, so that no other tensor gets their address.
        self._storages: dict[int, Any] = {}
        self._filled: dict[int, Any] = {}
        self._host_data: dict[int, Any] = {}  # what the host computed or wrote itself

    def adopt(self, tensor: Tensor) -> None:
        """From here on ``tensor``'s memory counts as the device's."""
        storage = tensor.untyped_storage()
        if self._filled.pop(storage._cdata, None) is not None:
            self.counts.torch += 1
        if self._host_data.pop(storage._cdata, None) is not None:
            self.counts.device_copies += 1
        self._storages[storage._cdata] = storage

    @contextmanager
    def kernel(self, arguments: Any) -> Iterator[None]:
        """A Triton launch; what its interpreter does with tensors inside is no launch of torch."""
        if self._is_in_kernel:
            yield
            return
        self.counts.triton += 1
        if not self._is_gpu:
            for leaf in pytree.tree_leaves(arguments):
                if isinstance(leaf, Tensor):
                    self.adopt(leaf)
        self._is_in_kernel = True
        try:
            yield
        finally:
            self._is_in_kernel = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._is_in_kernel:
            self._count(func, args, kwargs, result)
        return result

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        name = func.overloadpacket.__name__
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        from_device = any(self._is_on_device(tensor) for tensor in given)
        if name in _READS:
            self.counts.host_copies += from_device
        elif name == _FROM_HOST:
            self._keep_host_data(made)
        elif name in _ALLOCATIONS or func.is_view:
            pass
        elif name in _FILLS and not from_device:
            self._count_fill(made)
        elif name in _COPIES and (from_device or any(tensor.is_cuda for tensor in made)):
            self._count_copy(name, args, kwargs, made)
        elif from_device or any(tensor.is_cuda for tensor in made):
            self.counts.torch += 1
            self.counts.host_copies += name in _DATA_DEPENDENT
            self._adopt_all(made)
        else:
            self._keep_host_data(made)

    def _keep_host_data(self, made: Sequence[Tensor]) -> None:
        if not self._is_gpu:
            for tensor in made:
                self._host_data[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def _count_fill(self, made: Sequence[Tensor]) -> None:
        for tensor in made:
            if tensor.is_cuda:
                self.counts.torch += 1
            elif not self._is_gpu:
                self._filled[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def _count_copy(
        self, name: str, args: Any, kwargs: dict[str, Any], made: Sequence[Tensor]
    ) -> None:
        source, target = (args[1], args[0]) if name == "copy_" else (args[0], made[0])
        stays = self._is_on_device(target)
        if not self._is_gpu:
            stays |= name == "_to_copy" or self._is_filled(target)
        if self._is_on_device(source) and not stays:
            self.counts.host_copies += 1
        elif self._waits_for_the_device(source, kwargs.get("non_blocking", args[2:] == (True,))):
            self.counts.device_copies += 1
            self._adopt_all([target])
        else:
            self.counts.torch += 1
            self._adopt_all([target])

    def _waits_for_the_device(self, source: Tensor, non_blocking: bool) -> bool:
        """Whether a copy of ``source`` to the device does."""
        if self._is_gpu:
            return not source.is_cuda and not (non_blocking and source.is_pinned())
        return source.untyped_storage()._cdata in self._host_data

    def _is_filled(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._filled

    def _adopt_all(self, made: Sequence[Tensor]) -> None:
        if not self._is_gpu:
            for tensor in made:
                self.adopt(tensor)

    def _is_on_device(self, tensor: Tensor) -> bool:
        if self._is_gpu:
            return tensor.is_cuda
        return tensor.untyped_storage()._cdata in self._storages


@contextmanager
def _triton_launches_reported_to(counter: _Counter) -> Iterator[None]:
    """Every launch of a Triton kernel from this process tells ``counter``."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.jit import JITFunction

    run, execute = JITFunction.run, GridExecutor.__call__

    def counted_run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        if warmup:
            return run(self, *args, grid=grid, warmup=warmup, **kwargs)
        with counter.kernel((args, kwargs)):
            return run(self, *args, grid=grid, warmup=warmup, **kwargs)

    def counted_execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        with counter.kernel((args, kwargs)):
            return execute(self, *args, **kwargs)

    with (
        mock.patch.object(JITFunction, "run", counted_run),
        mock.patch.object(GridExecutor, "__call__", counted_execute),
    ):
        yield
