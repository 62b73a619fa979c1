"""One component as a file whose tensors can be computed with where they are mapped.

The file is the length of a msgpack header in eight bytes, the header, and tensors, each at the address modulo
64 that the library had it at: arithmetic libraries choose their path by that, and pictures differ otherwise.
What a library copied is aligned, what it mapped out of a model's safetensors file is mostly not, and that
format could not say it, because it has no gaps between tensors. The header says the component's config and
which attribute of which module is which tensor: parameters, buffers, those left out of a state dict too, and
plain attributes that are tensors. Several attributes may be one tensor (tied weights).

A component is made again from its class and its config, without weights, and then each of these attributes is
put in its place. Whether that makes what the library loaded is not believed but compared, once, by whoever
writes the file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import accelerate
import msgpack
import torch
from diffusers.models.modeling_utils import no_init_weights
from transformers import PreTrainedModel
from transformers.modeling_utils import patch_output_recorders
from transformers.utils.generic import ContextManagers

from worker.host_folder import HeldFile

_LINE_BYTES = 64
_KINDS = ("_parameters", "_buffers")
# left behind by loading, and for saving only; the config is compared by itself
_NOT_COMPARED = {
    *("_modules", "_internal_dict", "_diffusers_load_id", "name_or_path"),
    *("_weight_conversions", "_is_hf_initialized"),
}


@dataclass(frozen=True)
class _Place:
    """Attribute `name` of the module at `path`. `kind`: parameter, buffer or plain."""

    path: str
    kind: str
    name: str


class HostCopy:
    """A component as it stands, laid out to be written."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Raises `ValueError` for a component that such a file cannot say."""
        numbers: dict[int, int] = {}
        self._tensors: list[torch.Tensor] = []
        places: list[tuple[str, str, str, int]] = []
        for place, tensor in _tensors(module):
            if not tensor.is_contiguous():
                raise ValueError(f"{place.path}.{place.name} is not contiguous")
            if id(tensor) not in numbers:
                numbers[id(tensor)] = len(self._tensors)
                self._tensors.append(tensor)
            places.append((place.path, place.kind, place.name, numbers[id(tensor)]))
        n_bytes = 0
        infos: list[tuple[str, list[int], int]] = []
        for tensor in self._tensors:
            offset = n_bytes + (tensor.data_ptr() - n_bytes) % _LINE_BYTES
            infos.append((str(tensor.dtype).removeprefix("torch."), list(tensor.shape), offset))
            n_bytes = offset + tensor.numel() * tensor.element_size()
        header = {"config": _config(module), "places": places, "tensors": infos}
        self._header: bytes = msgpack.packb(header)
        self._start = _aligned(8 + len(self._header))
        self._offsets = [offset for _, _, offset in infos]
        self.n_bytes = self._start + n_bytes

    def write(self, file: BinaryIO) -> None:
        file.write(len(self._header).to_bytes(8, "little") + self._header)
        for tensor, offset in zip(self._tensors, self._offsets, strict=True):
            file.seek(self._start + offset)
            file.write(_bytes(tensor).numpy().data)


def made_from(held: HeldFile, kind: Any, dtype: torch.dtype) -> torch.nn.Module:
    """The component of class `kind` on the pages of `held`, of which a writer would get copies of its own.

    `dtype`: as it was loaded. Raises `ValueError` if the file is not one of ours.
    """
    with open(held.path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        if not 0 < n_header <= held.n_bytes - 8:
            raise ValueError(f"{held.path.name} is no host copy")
        header = msgpack.unpackb(file.read(n_header))
    storage: Any = torch.UntypedStorage.from_file(str(held.path), shared=False, nbytes=held.n_bytes)
    start = _aligned(8 + n_header)
    tensors = [_view(storage, start + offset, name, shape) for name, shape, offset in header["tensors"]]
    parameters: dict[int, torch.nn.Parameter] = {}
    module = _without_weights(kind, json.loads(header["config"]), dtype)
    for path, kind_of, name, number in header["places"]:
        owner = module.get_submodule(path)
        if kind_of == "_parameters":
            if number not in parameters:
                parameters[number] = torch.nn.Parameter(tensors[number], requires_grad=False)
            owner._parameters[name] = parameters[number]
        elif kind_of == "_buffers":
            owner._buffers[name] = tensors[number]
        else:
            vars(owner)[name] = tensors[number]
    return module.eval()


def difference(made: torch.nn.Module, loaded: torch.nn.Module) -> str | None:
    """In what `made` is not `loaded`, to the last bit of every tensor; None if in nothing."""
    if _config(made) != _config(loaded):
        return "its config is another one"
    ours, theirs = dict(made.named_modules()), dict(loaded.named_modules())
    if ours.keys() != theirs.keys():
        return f"its modules are others: {', '.join(sorted(ours.keys() ^ theirs.keys())[:3])}"
    for path, module in ours.items():
        other = theirs[path]
        mine, its = _attributes(module), _attributes(other)
        if type(module) is not type(other) or mine.keys() != its.keys():
            return f"{path or 'it'} is made differently"
        for name, value in mine.items():
            if not _same(value, its[name]):
                return f"{path or 'it'} has another {name}"
    same = _shared_places(made) == _shared_places(loaded)
    return None if same else "other weights of it are tied"


def _tensors(module: torch.nn.Module) -> Iterator[tuple[_Place, torch.Tensor]]:
    for path, owner in module.named_modules():
        for kind in _KINDS:
            for name, value in vars(owner)[kind].items():
                if value is not None:
                    yield _Place(path, kind, name), value
        for name, value in vars(owner).items():
            if isinstance(value, torch.Tensor):
                yield _Place(path, "", name), value


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _NOT_COMPARED}


def _shared_places(module: torch.nn.Module) -> set[tuple[_Place, ...]]:
    """Which places hold one and the same tensor."""
    groups: dict[int, list[_Place]] = {}
    for place, tensor in _tensors(module):
        groups.setdefault(id(tensor), []).append(place)
    return {tuple(places) for places in groups.values() if len(places) > 1}


def _config(module: Any) -> str:
    """The config as JSON, without where it was read from."""
    if isinstance(module, PreTrainedModel):
        values = json.loads(module.config.to_json_string(use_diff=False))
    else:
        values = json.loads(module.to_json_string())
    values.pop("_name_or_path", None)
    return json.dumps(values, sort_keys=True)


def _without_weights(kind: Any, config: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """As `from_pretrained` of either library makes it before it loads weights."""
    if issubclass(kind, PreTrainedModel):
        with ContextManagers(kind.get_init_context(dtype, False, False, None)):
            module = kind(kind.config_class.from_dict(config))
            patch_output_recorders(module)
            module.set_use_kernels(False)
    else:
        with _default_dtype(dtype), no_init_weights(), accelerate.init_empty_weights():
            module = kind.from_config(config)
    made: torch.nn.Module = module
    return made


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _view(storage: Any, offset: int, dtype_name: str, shape: list[int]) -> torch.Tensor:
    view: Any = torch.empty(0, dtype=getattr(torch, dtype_name))
    strides = torch.empty(shape, device="meta").stride()
    view.set_(storage, offset // view.element_size(), shape, strides)
    made: torch.Tensor = view
    return made


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in their tensors and plain values; objects are not looked into."""
    match one, other:
        case torch.Tensor(), torch.Tensor():
            if (one.dtype, one.shape, one.stride(), one.device) != (
                *(other.dtype, other.shape, other.stride(), other.device),
            ):
                return False
            if one.numel() and (one.data_ptr() - other.data_ptr()) % _LINE_BYTES:
                return False
            # as bytes: a number that is none equals itself there
            return torch.equal(_bytes(one), _bytes(other))
        case (list(), list()) | (tuple(), tuple()):
            return len(one) == len(other) and all(map(_same, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
        case (set(), set()) | (bool() | int() | float() | str(), bool() | int() | float() | str()):
            return bool(one == other or (one != one and other != other))
    return not isinstance(one, torch.Tensor) and not isinstance(other, torch.Tensor)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _LINE_BYTES) * _LINE_BYTES
