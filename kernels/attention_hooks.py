"""Switches the attention of a loaded part of a model over to the kernel, and back.

Only the given module's own attention is touched, never diffusers' classes or its active backend, so that
other models of the process stay as they are. There are three ways in:

- Models that dispatch (Flux, Qwen-Image, Wan and most others): each processor carries the name of its
  backend. Ours is a name of our own in diffusers' registry, which nobody can pick by accident, since it is
  not among the members.
- Processors that call torch's attention themselves (SD3, SDXL, CogVideoX, the VAEs' middle): one of
  `kernels.processors` takes their place.
- Blocks without a processor (the middle of Wan's and Qwen-Image's VAE): their `forward` is replaced on the
  object.

What has no way in stays with torch, is in the report, and each of its calls is counted.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from kernels.switch import Switch

WITHOUT_A_WAY_IN: Mapping[str, str] = {
    # frames see those before them, by heads of 1,024 in the published model
    "HunyuanVideo15AttnBlock": "causal over frames",
}

_numbers = itertools.count(1)


class AttachedAttention:
    """What was done to one module. `switched`: how many by class; `left`: why others were not, by class."""

    def __init__(self) -> None:
        self.switched: Counter[str] = Counter()
        self.left: dict[str, str] = {}
        self._undo: list[Callable[[], Any]] = []

    def detach(self) -> None:
        """Everything as it was. Harmless the second time."""
        while self._undo:
            self._undo.pop()()

    def _did(self, name: str, undo: Callable[[], Any]) -> None:
        self.switched[name] += 1
        self._undo.append(undo)

    def _left(self, name: str, reason: str, undo: Callable[[], Any]) -> None:
        self.left[name] = reason
        self._undo.append(undo)


def attach_attention(module: torch.nn.Module, switch: Switch) -> AttachedAttention:
    """Switch the attention of `module` over, by `switch`; nothing is done where that is off.

    Weights stay where and what they are. To be attached once; a second time needs `detach` before.
    """
    attached = AttachedAttention()
    if not switch.is_on:
        return attached
    # Triton and diffusers are needed from here on
    from kernels.attend import Attend

    attend = Attend(switch)
    backend = _registered(attend, attached)
    for each in module.modules():
        _switch_over(each, attend, backend, attached)
    return attached


def _switch_over(module: Any, attend: Any, backend: Any, attached: AttachedAttention) -> None:
    from kernels import processors

    own: dict[str, Any] = {
        "JointAttnProcessor2_0": processors.JointAttention,
        "AttnProcessor2_0": processors.SelfOrCrossAttention,
        "CogVideoXAttnProcessor2_0": processors.CogVideoXAttention,
    }
    frame_blocks = ("WanAttentionBlock", "QwenImageAttentionBlock")
    processor = getattr(module, "processor", None)
    name = type(module).__name__
    if name in frame_blocks:
        module.forward = functools.partial(processors.frame_attention, attend, module)
        attached._did(name, functools.partial(delattr, module, "forward"))
    elif processor is None:
        if (reason := WITHOUT_A_WAY_IN.get(name)) is not None:
            _leave(module, name, reason, attend, attached)
    elif (other := own.get(type(processor).__name__)) is not None:
        module.processor = other(attend)
        attached._did(type(processor).__name__, functools.partial(setattr, module, "processor", processor))
    elif hasattr(processor, "_attention_backend"):
        before = processor._attention_backend
        processor._attention_backend = backend
        attached._did(
            type(processor).__name__, functools.partial(setattr, processor, "_attention_backend", before)
        )
    else:
        _leave(module, type(processor).__name__, "unknown processor", attend, attached)


def _leave(module: torch.nn.Module, name: str, reason: str, attend: Any, attached: AttachedAttention) -> None:
    def count(*_: Any) -> None:
        attend.switch.count("attention", "torch", reason)

    attached._left(name, reason, module.register_forward_pre_hook(count).remove)


def _registered(attend: Any, attached: AttachedAttention) -> Any:
    """A backend of diffusers' that calls `attend`. It leaves the registry with `attached`."""
    from diffusers.models.attention_dispatch import (
        AttentionBackendName,
        _AttentionBackendRegistry,
        _native_attention,
    )

    def dispatched(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> Any:
        reason = (
            "dropout" if dropout_p else "causal" if is_causal else "parallel" if _parallel_config else None
        )
        if reason is None:
            return attend(query, key, value, attn_mask, scale)
        attend.switch.count("attention", "torch", reason)
        return _native_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, False, _parallel_config
        )

    # a value of the enumeration that is none of its members: what dispatches takes it, a look-up by name
    # does not
    value = f"triptych-{next(_numbers)}"
    backend: Any = str.__new__(AttentionBackendName, value)
    backend._name_, backend._value_ = value, value
    registry = _AttentionBackendRegistry
    registry._backends[backend] = dispatched
    registry._constraints[backend] = []
    registry._supported_arg_names[backend] = set(
        dispatched.__code__.co_varnames[: dispatched.__code__.co_argcount]
    )

    def leave() -> None:
        for table in (registry._backends, registry._constraints, registry._supported_arg_names):
            table.pop(backend, None)

    attached._undo.append(leave)
    return backend
