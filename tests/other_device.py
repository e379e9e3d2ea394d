"""A device that is not the CPU, on a machine that has none: its tensors hold numbers, and mixing them fails.

Inside `other_device()`, what is made on or moved to `DEVICE` says `device(type="meta")` and cannot be handed to numpy,
to an operation beside a tensor of the CPU, or to a kernel in C. What it computes is computed on the CPU. So a step that
runs here has every tensor where it belongs, without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
# A tensor of the CPU may be copied to the device and back; indices of the CPU may pick from it, as on a GPU.
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_TAKES_CPU_INDICES = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class Drawing(torch.Generator):
    """A generator of the CPU, whatever device is asked for."""

    def __new__(cls, device: object = "cpu") -> Drawing:
        return super().__new__(cls, "cpu")


class Remote(Tensor):
    """Numbers that lie elsewhere: `held` is a tensor of the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        with torch.inference_mode(False):
            made: Remote = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=DEVICE,
                requires_grad=False,
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _OtherDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat = tree_flatten((args, kwargs))[0]
    tensors = [x for x in flat if isinstance(x, Tensor)]
    remote = [x for x in tensors if isinstance(x, Remote)]
    strangers = [x for x in tensors if not isinstance(x, Remote) and x.dim()]
    if remote and strangers and func not in _COPIES and func not in _TAKES_CPU_INDICES:
        shapes = ", ".join(str(tuple(x.shape)) for x in strangers)
        raise RuntimeError(f"{func}: expected all tensors on one device; of the CPU are those of shape {shapes}")
    asked = kwargs.get("device")
    if func._schema.name == "aten::to":  # arrives whole in inference mode, with the device among its arguments
        asked = asked or next((x for x in flat if isinstance(x, torch.device)), None)
        args = tree_map(lambda x: torch.device("cpu") if isinstance(x, torch.device) else x, args)
    if "device" in kwargs and asked is not None:
        kwargs["device"] = torch.device("cpu")
    where_asked = None if asked is None else torch.device(asked).type == DEVICE.type
    if func._schema.name in ("aten::_to_copy", "aten::to") and asked is None:
        where_asked = bool(remote)
    args, kwargs = tree_map(lambda x: x.held if isinstance(x, Remote) else x, (args, kwargs))
    out = func(*args, **kwargs)
    to_remote = bool(remote) if where_asked is None else where_asked
    if out is None:
        return None
    if func._schema.name.endswith("_") or "out" in kwargs:
        return flat[0] if isinstance(flat[0], Tensor) else out  # in place: what it was called on, where it lies
    if not to_remote:
        return out
    return tree_map(lambda x: Remote(x) if isinstance(x, Tensor) else x, out)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The device, and the check that nothing of the CPU is mixed in."""
    supported = (
        _foreach_utils._get_foreach_kernels_supported_devices,
        _foreach_utils._get_fused_kernels_supported_devices,
    )
    names = [function.__name__ for function in supported]

    def with_ours(function: Any) -> Any:
        return lambda: [*function(), DEVICE.type]

    import torch.nn.utils.clip_grad as clip
    import torch.optim.optimizer as optimizer

    # What torch knows of real devices alone: precisions of products, and where random numbers are drawn.
    autocast, enabled, generator = torch.autocast, torch.is_autocast_enabled, torch.Generator
    there = {"autocast": autocast, "is_autocast_enabled": enabled, "Generator": generator}
    ours = {
        "autocast": lambda kind, *rest, **more: autocast("cpu" if kind == DEVICE.type else kind, *rest, **more),
        "is_autocast_enabled": lambda kind="cpu": enabled("cpu" if kind == DEVICE.type else kind),
        "Generator": Drawing,
    }
    places = [(module, name) for module in (_foreach_utils, clip, optimizer) for name in names if hasattr(module, name)]
    before = [(module, name, getattr(module, name)) for module, name in places]
    try:
        for module, name, function in before:
            setattr(module, name, with_ours(function))
        for name, replacement in ours.items():
            setattr(torch, name, replacement)
        with _OtherDevice():
            yield DEVICE
    finally:
        for module, name, function in [*before, *((torch, *pair) for pair in there.items())]:
            setattr(module, name, function)
