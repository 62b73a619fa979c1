"""The one call that switches a loaded part of a model over to the kernels, and back.

Attention of whatever diffusers' networks attend with, the decoder of a VAE, the norms of a denoiser: each
part of this says by itself what it takes. Only the given module is touched, its weights stay where and what
they are, and other models of the process stay as they are.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from kernels.switch import Switch


class _Part(Protocol):
    def detach(self) -> None: ...


class Attached:
    """What was done to one module. `switched`: how many of each thing; `left`: why others were not."""

    def __init__(self, parts: list[Any]) -> None:
        self.switched: dict[str, int] = {}
        self.left: dict[str, str] = {}
        for part in parts:
            self.switched |= part.switched
            self.left |= part.left
        self._parts: list[_Part] = parts

    def detach(self) -> None:
        """Everything as it was. Harmless the second time."""
        while self._parts:
            self._parts.pop().detach()


def attach(module: torch.nn.Module, switch: Switch) -> Attached:
    """Switch `module` over, by `switch`. Nothing is done to a text encoder, which runs once a prompt.

    In mode "torch" nothing is done at all. On a CPU "auto" gives decoders the form that is fastest there,
    which needs no Triton, and leaves attention to torch. To be attached once; a second time needs `detach`
    before.
    """
    if switch.mode == "torch":
        return Attached([])
    # these need diffusers' models, which take seconds to import
    from diffusers import ModelMixin

    from kernels import decoder, denoiser
    from kernels.attention_hooks import attach_attention

    if not isinstance(module, ModelMixin):
        return Attached([])
    is_vae = hasattr(module, "decode")
    own = decoder.attach(module, switch) if is_vae else denoiser.attach(module, switch)
    return Attached([attach_attention(module, switch), own])
