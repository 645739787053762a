"""The Triton kernels: private, one family a file. ``prunevid_kernels`` has the public functions."""

from prunevid_kernels.kernels._device import interpreter_fault, is_interpreted

__all__ = ["interpreter_fault", "is_interpreted"]
