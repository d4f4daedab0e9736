"""A pretended accelerator: real numbers on the CPU, with the rules of a CUDA device.

Tensors moved to `DEVICE` say so, compute on the CPU, and refuse what CUDA refuses: meeting a CPU
tensor in one operation, a CPU generator, `numpy()`. Mistakes of placement then fail on machines
without a GPU, and the numbers must equal the CPU's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("xla", 0)  # a kind that no machine here has and torch does not initialise
_aten = torch.ops.aten
#: operations that may read the host: copies, and indices of a tensor on the device
_MIXED = {_aten._to_copy.default, _aten.copy_.default, _aten.lift_fresh.default}
_INDEXED = {_aten.index.Tensor: 1, _aten.index_put_.default: 1, _aten.index_put.default: 1}


class OnDevice(torch.Tensor):
    """A CPU tensor that says it is on the device."""

    @staticmethod
    def __new__(cls, elem: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, layout=elem.layout, device="cpu", requires_grad=False,
        )  # fmt: skip

    def __init__(self, elem: torch.Tensor):
        self.elem = elem

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    def tolist(self):
        return self.elem.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor on the device to numpy; use .cpu() first")

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def untyped_storage(self):
        return self.elem.untyped_storage()

    def data_ptr(self):
        return self.elem.data_ptr()

    def cpu(self):
        return moved(self, "cpu")

    def type(self, *args):
        return self.elem.type(*args)

    def __deepcopy__(self, memo):
        with torch.no_grad():
            made = OnDevice(self.elem.detach().clone())
        made.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
        return made

    def __reduce_ex__(self, protocol):
        return self.elem.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            return moved(*args, **kwargs)
        if func is torch.nn.functional.one_hot:  # makes its classes where C++ believes it is
            return func(args[0].elem, *args[1:], **kwargs).to(DEVICE)
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def _apply(self, convert, recurse=True):
    """`Module.to`: parameters keep their identity, as they do on CUDA."""
    for child in self.children():
        child._apply(convert)
    for p in self._parameters.values():
        if p is not None:
            with torch.no_grad():
                new = convert(p)
            if new is not p:
                torch.utils.swap_tensors(p, nn.Parameter(new.detach(), p.requires_grad))
    for key, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[key] = convert(buffer)
    return self


class _Makers(TorchFunctionMode):
    """`torch.tensor(..., device=...)` asks the device itself, past every dispatch mode."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and is_ours(kwargs.get("device")):
            device, leaf = kwargs.pop("device"), kwargs.pop("requires_grad", False)
            return func(*args, **kwargs).to(device).requires_grad_(leaf)
        return func(*args, **kwargs)


class Accelerator(TorchDispatchMode):
    """Inside, `DEVICE` exists."""

    def __enter__(self):
        nn.Module._apply, self.plain_apply = _apply, nn.Module._apply
        self.makers = _Makers()
        self.makers.__enter__()
        return super().__enter__()

    def __exit__(self, *reason):
        super().__exit__(*reason)
        self.makers.__exit__(*reason)
        nn.Module._apply = self.plain_apply

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


def moved(tensor: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """`tensor.to(...)`: C++ believes the wrapper to be on the CPU, so devices are compared here."""
    if isinstance(args[0] if args else None, torch.Tensor):
        like, *rest = args
        args = (like.device, like.dtype, *rest)
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    options = {"dtype": dtype or tensor.dtype, "device": device or tensor.device}
    same = is_ours(options["device"]) == isinstance(tensor, OnDevice)
    if same and options["dtype"] == tensor.dtype and layout is None and not kwargs.get("copy"):
        return tensor
    return _aten._to_copy(tensor, **options, memory_format=layout)


def is_ours(device) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def dispatch(func, args, kwargs):
    flat, _ = tree_flatten((args, kwargs))
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, OnDevice)]
    wanted = kwargs.get("device")
    target = is_ours(wanted) if wanted is not None else bool(ours)
    if func is _aten.zeros.default and torch._C._current_graph_task_id() != -1:
        target = True  # a gradient that autograd fills in where there is none
    if func not in _MIXED and ours:
        checked = tensors
        if func in _INDEXED and isinstance(args[0], OnDevice):
            checked = [args[0], *(a for a in args[2:] if isinstance(a, torch.Tensor))]
        host = [t for t in checked if not isinstance(t, OnDevice) and t.ndim > 0]
        if host:
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found {DEVICE} and "
                f"cpu, shapes {[tuple(t.shape) for t in tensors]}"
            )
    generator = kwargs.get("generator")
    if target and generator is not None:
        raise RuntimeError(f"{func}: Expected a device generator but found a CPU one")
    unwrap = lambda t: t.elem if isinstance(t, OnDevice) else t  # noqa: E731
    plain_args, plain_kwargs = tree_map(unwrap, args), tree_map(unwrap, dict(kwargs))
    if wanted is not None:
        plain_kwargs["device"] = torch.device("cpu")
    if func is _aten.copy_.default:
        target = isinstance(args[0], OnDevice)
    same = {id(t.elem): t for t in ours}
    out = func(*plain_args, **plain_kwargs)
    if not target:
        return out
    if func is _aten._to_copy.default and out is plain_args[0]:
        out = out.clone()
    wrap = lambda t: (  # noqa: E731
        same.get(id(t)) or OnDevice(t)
        if isinstance(t, torch.Tensor) and not isinstance(t, OnDevice) else t
    )  # fmt: skip
    wrapped = tree_map(lambda t: same[id(t)] if isinstance(t, torch.Tensor) and id(t) in same
                       else wrap(t), out)  # fmt: skip
    if not ours:
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)
