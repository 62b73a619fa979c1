"""Stage outputs as bytes: a msgpack tree of plain values, then the tensors as safetensors. No pickle.

Layout: 8 bytes little-endian length of the tree, the tree, the safetensors file. In the tree a tensor is the
name of its entry and the order of its dimensions in memory, because convolutions over a channels-last tensor
round differently than over its contiguous copy. Lists, tuples, dicts, numbers, strings, None and dtypes are
kept as they are, pictures as their pixels. Anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image

from wire.handle import TensorInfo
from worker.errors import HandoffRefused

_LENGTH_BYTES = 8
_NOT_OURS = (
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
    msgpack.UnpackException,
    safetensors.SafetensorError,
)
_GENERATOR = "#generator"


@dataclass(frozen=True)
class Payload:
    """What flows from one stage to the next. `tags`: the kwargs types under which a name is known.

    `generator_state` None: nothing random was drawn yet, so the payload does not depend on the seed.
    """

    values: dict[str, Any]
    tags: dict[str, list[str]] = field(default_factory=dict)
    generator_state: torch.Tensor | None = None

    def to(self, device: torch.device) -> Payload:
        """The same with every tensor in `values` on `device`."""
        return Payload(
            values={name: _moved(value, device) for name, value in self.values.items()},
            tags=self.tags,
            generator_state=self.generator_state,
        )


def pack(payload: Payload) -> tuple[bytes, tuple[TensorInfo, ...]]:
    """The payload as bytes, and what tensors are inside. Raises `HandoffRefused` naming the value."""
    tensors: dict[str, torch.Tensor] = {}
    if payload.generator_state is not None:
        tensors[_GENERATOR] = payload.generator_state
    values = {name: _flatten(name, value, tensors) for name, value in payload.values.items()}
    tree: bytes = msgpack.packb({"values": values, "tags": payload.tags})
    named = tuple(
        TensorInfo(name=key, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for key, tensor in tensors.items()
    )
    # safetensors refuses tensors that share memory, and stores no strides
    stored = {key: tensor.permute(_memory_order(tensor)).contiguous() for key, tensor in tensors.items()}
    return len(tree).to_bytes(_LENGTH_BYTES, "little") + tree + safetensors.torch.save(stored), named


def unpack(data: bytes) -> Payload:
    """The opposite of `pack`. Raises `HandoffRefused` for anything else."""
    try:
        length = int.from_bytes(data[:_LENGTH_BYTES], "little")
        tree = msgpack.unpackb(data[_LENGTH_BYTES : _LENGTH_BYTES + length])
        tensors = safetensors.torch.load(data[_LENGTH_BYTES + length :])
        values = {name: _restore(node, tensors) for name, node in tree["values"].items()}
        return Payload(values=values, tags=tree["tags"], generator_state=tensors.get(_GENERATOR))
    except _NOT_OURS as error:
        raise HandoffRefused(f"not a packed stage output: {error}") from error


def _memory_order(tensor: torch.Tensor) -> list[int]:
    """The dimensions of `tensor` by falling stride, which is 0, 1, 2, ... if it is contiguous."""
    if tensor.is_contiguous():
        return list(range(tensor.ndim))
    return sorted(range(tensor.ndim), key=lambda dim: tensor.stride()[dim], reverse=True)


def _flatten(path: str, value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """One node of the tree: plain values as they are, everything else as [kind, content]."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case torch.Tensor():
            tensors[path] = value.detach().to("cpu", copy=True)
            return ["tensor", [path, _memory_order(tensors[path])]]
        case Image.Image() if value.mode == "RGB":
            tensors[path] = torch.from_numpy(np.array(value))
            return ["picture", path]
        case torch.dtype():
            return ["dtype", str(value).removeprefix("torch.")]
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            return [kind, [_flatten(f"{path}.{i}", item, tensors) for i, item in enumerate(value)]]
        case dict() if all(isinstance(key, str) for key in value):
            return ["dict", {key: _flatten(f"{path}.{key}", item, tensors) for key, item in value.items()}]
    raise HandoffRefused(f"{path} is a {type(value).__name__}, which cannot travel between stages")


def _restore(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    match kind:
        case "tensor":
            path, order = content
            return tensors[path].permute([order.index(dim) for dim in range(len(order))])
        case "picture":
            return Image.fromarray(tensors[content].numpy())
        case "dtype":
            return getattr(torch, content)
        case "list":
            return [_restore(item, tensors) for item in content]
        case "tuple":
            return tuple(_restore(item, tensors) for item in content)
        case "dict":
            return {key: _restore(item, tensors) for key, item in content.items()}
    raise ValueError(f"unknown kind {kind!r}")


def _moved(value: Any, device: torch.device) -> Any:
    match value:
        case torch.Tensor():
            return value.to(device)
        case list():
            return [_moved(item, device) for item in value]
        case tuple():
            return tuple(_moved(item, device) for item in value)
        case dict():
            return {key: _moved(item, device) for key, item in value.items()}
    return value
