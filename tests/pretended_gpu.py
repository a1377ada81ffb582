"""A pretended GPU: tensors that compute on the CPU, say that they are on `pretend`, and refuse what a GPU refuses.

It finds code that mixes devices: a mask made on the CPU, a generator of the wrong device, `.numpy()` of a tensor on the
device, an index on the device into a tensor on the CPU. Torch cannot give a wrapper of this kind the version counter of
a tensor made in inference mode, so none may be.

    with pretended_gpu.installed() as device:
        torch.ones(3).to(device) + torch.ones(3)  # RuntimeError, as on a GPU
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import library
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
INDEXING = {f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")}
MOVING = {"aten::_to_copy", "aten::copy_"}

_registered: list[Any] = []  # what is registered lasts as long as these


class Module(backend_registration._DummyBackendModule):
    """What `torch.pretend` is asked for."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def current_device(self) -> int:
        return 0

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, *_: Any) -> None: ...

    def manual_seed_all(self, _seed: int) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False


class Pretended(torch.Tensor):
    """A wrapper of a tensor on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"Pretended({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Sees operations on ordinary tensors, too, such as `.to("pretend")`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def unwrap(x: Any) -> Any:
    return x.inner if isinstance(x, Pretended) else x


def is_pretended(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the CPU, after the checks that a GPU would make."""
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    name, wanted = func._schema.name, kwargs.get("device")
    on_device = any(isinstance(x, Pretended) for x in tensors)
    if on_device and name not in MOVING:
        refuse_strangers(name, args, tensors)
    generators = [x for x in flat if isinstance(x, torch.Generator)]
    if (on_device or is_pretended(wanted)) and any(g.device.type == "cpu" for g in generators):
        raise RuntimeError(f"a CPU generator for a tensor on the device, in {name}")
    plain = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if wanted is not None:
        plain["device"] = torch.device("cpu")
    args_in, kwargs_in = tree_map(unwrap, (args, plain))
    out = func(*args_in, **kwargs_in)
    if wanted is not None:
        to_device = is_pretended(wanted)
    else:
        to_device = isinstance(args[0], Pretended) if name == "aten::copy_" else on_device
    known = {id(unwrap(x)): x for x in tensors}  # what is computed in place keeps its wrapper

    def wrap(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return known.get(id(x), Pretended(x) if to_device else x)

    return tree_map(wrap, out)


def refuse_strangers(name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Refuse tensors on the CPU beside tensors on the device; a number (no axes) may be on either, and so may indices.

    Raises:
        RuntimeError: there are some.
    """
    strangers = [x for x in tensors if not isinstance(x, Pretended) and x.ndim]
    if name in INDEXING:
        if not isinstance(args[0], Pretended):
            raise RuntimeError(f"a tensor on the CPU is indexed by one on the device, in {name}")
        put = args[2] if len(args) > 2 and isinstance(args[2], torch.Tensor) else None
        strangers = [put] if put is not None and put.ndim and not isinstance(put, Pretended) else []
    if strangers:
        shapes = [tuple(x.shape) for x in strangers]
        raise RuntimeError(f"expected all tensors on one device in {name}; on the CPU: {shapes}")


@cache
def register() -> None:
    """Register the device, and what torch's own kernels ask of one; this cannot be undone."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    autocast = library.Library("_", "IMPL", "AutocastPrivateUse1")
    autocast.fallback(library.fallthrough_kernel)
    aten = library.Library("aten", "IMPL", "PrivateUse1")

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
        return Pretended(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
        return Pretended(torch.empty(size, dtype=dtype, device="cpu"))

    def copy_from(source: Any, target: Any, *_: Any, **__: Any) -> torch.Tensor:
        unwrap(target).copy_(unwrap(source))
        return target

    aten.impl("empty_strided", empty_strided)
    aten.impl("empty.memory_format", empty)
    aten.impl("_copy_from", copy_from)
    _registered.extend([autocast, aten])


@contextmanager
def installed() -> Iterator[torch.device]:
    """Give the device inside; outside, tensors on it are of no use."""
    register()
    original = {name: getattr(torch.Tensor, name) for name in ("tolist", "numpy", "__array__")}

    def refusing(name: str) -> Any:
        def refuse(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if isinstance(x, Pretended):
                raise TypeError("a tensor on the device cannot become a NumPy array; use .cpu() first")
            return original[name](x, *args, **kwargs)

        return refuse

    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.Tensor.tolist = lambda x: original["tolist"](unwrap(x))  # type: ignore[method-assign]
    for name in ("numpy", "__array__"):
        setattr(torch.Tensor, name, refusing(name))
    try:
        with Mode():
            yield torch.device(NAME, 0)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        for name, function in original.items():
            setattr(torch.Tensor, name, function)
