"""Attention as attached models call it: by the kernel or by torch, as the switch says, and counted."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from kernels.attention import attention, attention_reference, refusal
from kernels.attention.settings import candidates
from kernels.switch import Choice, Switch, Variant, size_class

OP = "attention"


class Attend:
    """q [B, Tq, H, D]; k, v [B, Tk, Hk, D] to [B, Tq, H, D], as `kernels.attention.attention` says.

    What the kernel does not take goes to torch's attention, whatever the mode, and is counted by its reason.
    """

    def __init__(self, switch: Switch) -> None:
        self.switch = switch

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None = None,
        scale: float | None = None,
    ) -> torch.Tensor:
        choice = self._choice(q, k, v, mask, scale)
        if choice.path == "torch":
            return attention_reference(q, k, v, mask=mask, scale=scale)
        return attention(q, k, v, mask=mask, scale=scale, settings=choice.settings or None)

    def _choice(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> Choice:
        reason = refusal(q, k, v, mask, scale)
        if reason is not None:
            self.switch.count(OP, "torch", reason)
            return Choice("torch")
        make = functools.partial(_variants, _like(q), _like(k), _like(v), _like(mask))
        return self.switch.choice(OP, key_of(q, k, mask), make)


def key_of(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None) -> str:
    """What the fastest way depends on: type, head size, classes of lengths, kind of mask; never the batch."""
    masked = "" if mask is None else " pairs" if mask.ndim == 4 and mask.shape[2] > 1 else " keys"
    kind = str(q.dtype).removeprefix("torch.")
    return f"{kind} d{q.shape[3]} q{size_class(q.shape[1])} k{size_class(k.shape[1])}{masked}"


_Likeness = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, torch.device]


def _like(tensor: torch.Tensor | None) -> _Likeness | None:
    """What there is to know of a tensor but its values, which are not to be kept alive."""
    return None if tensor is None else (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


def _made(likeness: _Likeness | None) -> torch.Tensor | None:
    if likeness is None:
        return None
    shape, strides, dtype, device = likeness
    tensor = torch.empty_strided(shape, strides, dtype=dtype, device=device)
    if dtype == torch.bool:
        return tensor.fill_(1)
    return tensor.normal_(generator=torch.Generator(device).manual_seed(0))


def _variants(*like: _Likeness | None) -> Sequence[Variant]:
    q, k, v, mask = (_made(each) for each in like)
    assert q is not None
    assert k is not None
    assert v is not None
    name, capability = "", 0
    if q.device.type == "cuda":
        name = torch.cuda.get_device_name(q.device)
        major, minor = torch.cuda.get_device_capability(q.device)
        capability = 10 * major + minor
    tried = candidates(name, capability, q.dtype, q.shape[3], k.shape[1])
    return (
        Variant("torch", (), functools.partial(attention_reference, q, k, v, mask=mask)),
        *(
            Variant("triton", tuple(each), functools.partial(attention, q, k, v, mask=mask, settings=each))
            for each in tried
        ),
    )
