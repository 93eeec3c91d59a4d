"""A device that there is not: tensors that say they lie on it and lie on the CPU, and refuse what a GPU refuses.

It is called `meta`, since autograd works on that without any hardware. Refused: an operation on tensors of both devices (but for scalars,
copies, and indices on the CPU), random numbers from a generator of the other device, numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

NAME = "meta"
aten = torch.ops.aten
ACROSS = {aten._to_copy.default, aten.copy_.default}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}  # whose indices may lie on the CPU


class There(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        about = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype, "layout": inner.layout}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, device=NAME, **about)
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"There({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a tensor of a device to numpy; say .cpu() first")

    def __array__(self, *_: Any) -> Any:
        raise TypeError("can't convert a tensor of a device to numpy; say .cpu() first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """What makes tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Written(TorchFunctionMode):
    """Numbers written down in Python, which `torch.tensor` brings to the device past every dispatch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and there(kwargs.get("device")):
            return There(func(*args, **{**kwargs, "device": "cpu"}))
        if func is Tensor.new_tensor and isinstance(args[0], There):
            return There(args[0].inner.new_tensor(*args[1:], **kwargs))
        if func == Tensor.data.__set__ and isinstance(args[0], There):
            args[0].inner = args[1].inner
            return None
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], There):
            place = tree_map(lambda at: torch.tensor(at) if isinstance(at, list) else at, args[1], is_leaf=lambda at: isinstance(at, list))
            args = (args[0], place, *args[2:])
        return func(*args, **kwargs)


def there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    ours = [value for value in given if isinstance(value, There)]
    device = kwargs.get("device")
    if ours and func not in ACROSS:
        counted = tree_flatten((args[0], args[2:]))[0] if func in INDEXED else given
        for value in counted:
            if isinstance(value, Tensor) and not isinstance(value, There) and value.dim():
                raise RuntimeError(f"{func}: Expected all tensors to be on the same device, but found one {tuple(value.shape)} on the CPU")
    if func in INDEXED and not isinstance(args[0], There) and ours:
        raise RuntimeError(f"{func}: indices should be on the same device as the indexed tensor (cpu)")
    if "generator" in kwargs and kwargs["generator"] is not None and (there(device) or (ours and device is None)):
        raise RuntimeError(f"{func}: Expected a generator of the device but found 'cpu'")
    goes = there(device) if device is not None else bool(ours)
    if func is aten.copy_.default:
        goes = isinstance(args[0], There)
    inner_args, inner_kwargs = tree_map(lambda value: value.inner if isinstance(value, There) else value, (args, kwargs))
    if there(device):
        inner_kwargs["device"] = torch.device("cpu")
    made = func(*inner_args, **inner_kwargs)
    if func in ACROSS and func is not aten.copy_.default and made is inner_args[0]:
        made = made.clone()
    if not goes:
        return made
    wrapped = tree_map(lambda value: There(value) if isinstance(value, Tensor) else value, made)
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def moved(module: nn.Module) -> nn.Module:
    """A module whose weights lie on the device, in place; what was shared is."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for held, kind in ((part._parameters, nn.Parameter), (part._buffers, lambda value, **_: value)):
            for name, value in held.items():
                if value is not None:
                    held[name] = made.setdefault(id(value), kind(There(value.detach().clone()), requires_grad=value.requires_grad))
                    made[id(held[name])] = held[name]
    return module


@contextmanager
def device() -> Iterator[None]:
    """Where the device is there. Its autocast is the CPU's."""
    autocast = torch.autocast
    torch.autocast = lambda kind, *given, **more: autocast("cpu" if kind == NAME else kind, *given, **more)  # type: ignore[misc]
    try:
        with Written(), Device():
            yield
    finally:
        torch.autocast = autocast  # type: ignore[misc]
