"""Takes the calls of a pipeline's networks aside, so that they can be made by someone else."""

from __future__ import annotations

import collections
import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.guiders import BaseGuidance

from worker.network_call import NetworkCall

Through = Callable[[NetworkCall], Any]
"""Makes a call, or has it made, and returns the network's output."""


def divert(
    pipe: Any, components: Iterable[str], through: Through, kind: type[NetworkCall] = NetworkCall
) -> None:
    """Let every call of the networks `components` of `pipe`, a task's own copy, go through `through`.

    Each becomes a call of `kind`. The networks' stand-ins are shallow copies, so configs, types and weights
    are those of the resident ones.
    """
    for name in components:
        network = getattr(pipe, name)
        if isinstance(network, torch.nn.Module):
            setattr(pipe, name, _diverted(network, through, kind))


def can_share(pipe: Any) -> bool:
    """Whether calls of several tasks on this pipeline may be made as one.

    Guiders that prepare the network for one condition (skipped layers, perturbed attention) change the
    resident one for all.
    """
    guiders = [part for part in pipe.components.values() if isinstance(part, BaseGuidance)]
    return all(type(guider).prepare_models is BaseGuidance.prepare_models for guider in guiders)


def _diverted(network: torch.nn.Module, through: Through, kind: type[NetworkCall]) -> torch.nn.Module:
    clone = copy.copy(network)
    # hooks run when the resident network is called, and not here as well
    clone._forward_hooks = collections.OrderedDict()
    clone._forward_pre_hooks = collections.OrderedDict()

    # blocks read the network's parameters off its signature
    @functools.wraps(network.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return through(kind.of(network, args, kwargs))

    clone.forward = forward
    return clone
