"""The name of one handoff file: what messages carry instead of tensors."""

from __future__ import annotations

import msgspec


class TensorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor inside a handoff file. `dtype` is torch's name without the prefix, e.g. "float32"."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the handoff store of `node`. It stays readable until the gateway frees it."""

    node: str
    name: str
    n_bytes: int
    tensors: tuple[TensorInfo, ...] = ()
