"""A device that is not the processor, for machines that have no other: its tensors hold their numbers in the processor's memory, call
themselves CUDA's and their device `meta`, and refuse what CUDA refuses, an operation on tensors of both kinds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "meta"
aten = torch.ops.aten
# lengths of packed sequences are the processor's
PACKING = aten._pack_padded_sequence, aten._pack_padded_sequence_backward, aten._pad_packed_sequence, aten.gru
WAITS = aten._local_scalar_dense, aten.nonzero, aten._unique2, aten.masked_select
# Where CUDA stands still until all it was asked for is done: sizes that depend on numbers, numbers asked for, copies that block.
waits: list[str] = []
BOTH = (aten._to_copy, aten.copy_, *PACKING)
INDEXING = aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_


class Elsewhere(Tensor):
    """A tensor on the device."""

    held: Tensor
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": DEVICE}
        made = Tensor._make_wrapper_subclass(cls, held.shape, **layout)  # type: ignore[attr-defined]
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    def tolist(self) -> Any:
        waits.append("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class Factories(TorchDispatchMode):
    """What is made on the device, moved there or back."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class Literals(TorchFunctionMode):
    """`torch.tensor(…, device=…)`, which makes its tensor below what a dispatch mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and goes_there(kwargs.get("device")):
            waits.append(func.__name__)
            return Elsewhere(func(*args, **(kwargs | {"device": "cpu"})))
        return func(*args, **kwargs)


def goes_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if not torch.is_inference_mode_enabled():
        return computed(func, args, kwargs)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
    ):  # views of parameters want a version, which inference tensors do not have
        return computed(func, args, kwargs)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the processor makes of it, on the device where an argument or `device` is."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    name, asked = func.overloadpacket, kwargs.get("device")
    if there and name not in BOTH:
        require_one_device(func, name, args, [tensor for tensor in tensors if not isinstance(tensor, Elsewhere)])
    held_args, held_kwargs = tree_map(lambda leaf: leaf.held if isinstance(leaf, Elsewhere) else leaf, (args, kwargs))
    if there or goes_there(asked):
        if name in WAITS or (name is aten._to_copy and asked is not None and not kwargs.get("non_blocking")):
            waits.append(str(name))
        if name in INDEXING:
            waits.extend(str(name) for index in args[1] if index is not None and index.dtype == torch.bool)
    if goes_there(asked):
        held_kwargs["device"] = torch.device("cpu")
    if name is aten.copy_ and held_args[0].data_ptr() == held_args[1].data_ptr():
        return args[0]  # of a product into `out`, which is already there
    result = func(*held_args, **held_kwargs)
    if name is aten._pack_padded_sequence:
        return (Elsewhere(result[0]) if there else result[0]), result[1]
    if name is aten.copy_:
        return args[0]
    if not (goes_there(asked) if asked is not None else there):
        return result
    given = {id(tensor.held): tensor for tensor in there}  # an operation in place gives back its argument

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return given[id(leaf)] if id(leaf) in given else Elsewhere(leaf)

    return tree_map(wrapped, result)


def require_one_device(func: Any, name: Any, args: Any, here: list[Tensor]) -> None:
    """Raise as CUDA does where tensors of the processor stand beside those of the device; numbers may, and indices of what is there."""
    if name in INDEXING and isinstance(args[0], Elsewhere):
        here = [tensor for tensor in here if tensor.is_floating_point()]
    if any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, got some on cuda:0 and some on cpu")


class There(SingleDeviceStrategy):
    """Lightning's, on the device. What it trained stays there: tensors that autograd has seen cannot be swapped for others."""

    def __init__(self) -> None:
        super().__init__(DEVICE, accelerator=Device())

    def teardown(self) -> None:
        pass


class Device(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


@contextmanager
def elsewhere() -> Iterator[None]:
    """While this lasts, `meta` is the device."""
    autocast: Callable[..., Any] = torch.autocast
    optimizer = sys.modules["torch.optim.optimizer"]  # torch.optim hides it
    supported = optimizer._get_fused_kernels_supported_devices
    with pytest.MonkeyPatch.context() as patch, Factories(), Literals():
        patch.setattr(
            torch,
            "autocast",
            lambda device, *said, **options: autocast("cpu" if device == DEVICE else device, *said, **options),
        )
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*supported(), DEVICE])
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)
