"""A network with a plan that is on for the shapes at which it was measured to be faster, and off for others.

The whole network is what is measured, not each of its ops: a layout pays or not by what all of them do with
it. What changes with the choice are classes of modules and, in a decoder, the layout of its weights, which is
done when a call of another choice comes; between calls of one choice nothing is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kernels.swaps import Plan, Switched
from kernels.switch import Switch, Variant, size_class

Call = Callable[[], torch.Tensor]


class ByShape:
    """`network` with `plan` as `switch` chooses at each of its calls. `detach` undoes it, once.

    `again` says how to repeat a call of the network, given its arguments: what it returns is compared.
    """

    def __init__(
        self,
        op: str,
        network: torch.nn.Module,
        plan: Plan,
        switch: Switch,
        again: Callable[[tuple[Any, ...], dict[str, Any]], Call],
    ) -> None:
        self.switched, self.left = plan.counts, plan.left
        self._op, self._plan, self._switch, self._again = op, plan, switch, again
        self._name = type(network).__name__
        self._on: Switched | None = None
        self._is_measuring = False
        self._hook = network.register_forward_pre_hook(self._before, with_kwargs=True)

    def detach(self) -> None:
        self._hook.remove()
        self._be("torch")

    def _before(self, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_measuring:
            return
        first: torch.Tensor = args[0] if args else kwargs["hidden_states"]
        kind = str(first.dtype).removeprefix("torch.")
        key = f"{self._name} {kind} s{size_class(first[0].numel())}"
        choice = self._switch.choice(self._op, key, functools.partial(self._variants, args, kwargs))
        self._be(choice.path)

    def _variants(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Variant]:
        call = self._again(args, kwargs)
        return [
            Variant("torch", (), functools.partial(self._measured, "torch", call)),
            Variant("triton", (), functools.partial(self._measured, "triton", call)),
        ]

    def _measured(self, path: str, call: Call) -> torch.Tensor:
        self._is_measuring = True
        try:
            self._be(path)
            with torch.inference_mode():
                return call()
        finally:
            self._is_measuring = False

    def _be(self, path: str) -> None:
        if path == "torch" and self._on is not None:
            self._on.detach()
            self._on = None
        elif path == "triton" and self._on is None:
            self._on = Switched(self._plan)
