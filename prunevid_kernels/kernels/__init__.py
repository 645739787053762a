"""The Triton kernels: private, one family a file. ``prunevid_kernels`` has the public functions."""

from prunevid_kernels.kernels._device import is_interpreted

__all__ = ["is_interpreted"]
