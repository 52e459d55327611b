"""A guard against operations that make the host wait for the device, or send it something, for tests on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import recon3d.kernels  # noqa: F401

SIZES_OR_VALUES = {
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::repeat_interleave.Tensor",
    "recon3d::march_ahead",
}
"""Operations whose result, or its size, the host has to know."""


def bound(func, args, kwargs) -> dict:
    """The arguments of an operation by name, without those left at their defaults."""
    names = [argument.name for argument in func._schema.arguments]
    return dict(zip(names, args)) | (kwargs or {})


class NoHost(TorchDispatchMode):
    """Within it, an operation that talks to the host raises: a CUDA graph could not record it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name + (f".{func._overloadname}" if func._overloadname not in ("", "default") else "")
        if name in SIZES_OR_VALUES or func._schema.name in SIZES_OR_VALUES:
            raise AssertionError(f"{name} makes the host wait")
        if func is torch.ops.recon3d.march_rays.default and bound(func, args, kwargs).get("capacity") is None:
            raise AssertionError("march_rays without a capacity makes the host wait for the number of samples")
        if func._schema.name == "aten::lift_fresh":
            raise AssertionError("a tensor is made of the host's numbers")
        if func._schema.name.startswith("aten::index") and len(args) > 1 and isinstance(args[1], list | tuple):
            masks = [i for i in args[1] if isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise AssertionError(f"{name} with a mask makes the host wait")
        return func(*args, **(kwargs or {}))
