"""Parts of a loaded model that compute differently while they are on, and are as they were afterwards.

A module changes its class, not its place: its parameters stay what they are under the names they have, so
state dicts, host copies of weights, adapters, hooks and shallow copies of the model go on working, and no
other model's module is touched. Rejected: modules put in their places, which would have to repeat all that,
and functions patched in diffusers, which would reach every model of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn


class Part(Protocol):
    """One thing that can be switched. `on` and `off` take turns, beginning with `on`."""

    @property
    def what(self) -> str: ...

    def on(self) -> None: ...

    def off(self) -> None: ...


class ClassSwap:
    """`module` as a `kind`, which has to make do with the attributes that the module has."""

    def __init__(self, module: nn.Module, kind: type[nn.Module], what: str) -> None:
        self.what = what
        self._module = module
        self._own, self._kind = type(module), kind

    def on(self) -> None:
        self._module.__class__ = self._kind

    def off(self) -> None:
        self._module.__class__ = self._own


class Derived:
    """A buffer of `module` that is made of its weights while it is on, and is saved nowhere."""

    def __init__(self, module: nn.Module, name: str, make: Callable[[], torch.Tensor]) -> None:
        self.what = name
        self._module, self._name, self._make = module, name, make

    def on(self) -> None:
        self._module.register_buffer(self._name, self._make(), persistent=False)

    def off(self) -> None:
        delattr(self._module, self._name)


class ChannelsLast:
    """A convolution's weight with its channels side by side: the same parameter, laid out anew."""

    what = "channels-last weight"

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        self._conv = conv
        self._format = torch.channels_last if isinstance(conv, nn.Conv2d) else torch.channels_last_3d

    def on(self) -> None:
        self._conv.weight.data = self._conv.weight.data.contiguous(memory_format=self._format)

    def off(self) -> None:
        self._conv.weight.data = self._conv.weight.data.contiguous()


@dataclass
class Plan:
    """What of a model can be switched. `left`: paths of what cannot be, with the reason."""

    parts: list[Part]
    left: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        """How many parts of each kind."""
        names = [part.what for part in self.parts]
        return {name: names.count(name) for name in dict.fromkeys(names)}


class Switched:
    """A plan that is on. `switched`: how many of what; `left`: path and reason. `detach` undoes it, once."""

    def __init__(self, plan: Plan) -> None:
        self.switched, self.left = plan.counts, plan.left
        self._on: list[Part] = []
        try:
            for part in plan.parts:
                part.on()
                self._on.append(part)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        while self._on:
            self._on.pop().off()
