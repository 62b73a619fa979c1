"""Calls of a denoiser network: which can be made as one, how they are joined, how the output is parted.

A call is looked at by the names of the network's parameters, so nothing here knows a family but the literal
sets below. What has the batch as first dimension is concatenated; everything else must be equal. Calls that
do not fit together are made one by one, which is right and only slower.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

LATENTS = ("hidden_states", "sample", "x")
"""Names under which networks take the noisy latents; their first dimension, or length, is the batch size."""

TIMESTEPS = ("timestep", "t")
"""May be one number for the whole batch (SDXL's is); it becomes one per sample."""

POSITIONS = ("img_ids", "txt_ids")
"""Positions for rotary embeddings. Networks take the first sample's for all (Flux 2) or have no batch
dimension (Flux), so they must be equal and are passed on as they are."""

LISTS = ("img_shapes",)
"""Lists of plain values, one a sample, which must be equal: Qwen-Image takes the first one for all."""

RAGGED = ("cap_feats",)
"""Lists of tensors, one a sample, whose lengths may differ: the network pads and masks (Z-Image)."""

ZEROS_MEAN_NONE = ("image_embeds",)
"""HunyuanVideo 1.5 asks of its whole batch whether all of this is zeros, and then leaves it out for all."""

PADDED = {"QwenImageTransformer2DModel": ("encoder_hidden_states", "encoder_hidden_states_mask")}
"""By network: texts [B, L, C] of any length and their masks [B, L]. Qwen-Image trims texts to the prompt's
own length and takes a mask, so shorter ones are padded behind; elsewhere lengths must agree."""


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """One call of `network`. `values`: the arguments by parameter name, those left out not among them.

    While a call that `goes_first` is to be made, others wait for it.
    """

    goes_first: ClassVar[bool] = False

    network: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: dict[str, Any]

    @classmethod
    def of(cls, network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NetworkCall:
        names = _parameters(type(network).forward)[1:]
        return cls(network, args, kwargs, {**dict(zip(names, args, strict=False)), **kwargs})

    @property
    def batch_size(self) -> int:
        """0 if it is unknown; such a call is made alone."""
        return len(_latents(self.values))

    def make(self) -> Any:
        """The network's output for this call alone."""
        return self.network(*self.args, **self.kwargs)

    def fits(self, other: NetworkCall) -> bool:
        """Whether the two can be made as one."""
        return _fit(self, other)

    def make_with(self, others: Sequence[NetworkCall]) -> list[Any]:
        """Its output and theirs, by one call of the network. All of them must fit this one."""
        calls = [self, *others]
        sizes = [call.batch_size for call in calls]
        values = {name: [call.values[name] for call in calls] for name in self.values}
        if names := _padded(self):
            text, mask = names
            values[text], values[mask] = _padded_texts(values[text], values[mask])
        output = self.network(**{name: _joined(name, values[name], sizes) for name in values})
        return _parted(output, sizes, isinstance(_latents(values)[0], list))


def grouped(calls: Sequence[NetworkCall]) -> list[list[NetworkCall]]:
    """The calls in groups that can be made as one, in order of their first."""
    groups: list[list[NetworkCall]] = []
    for call in calls:
        home = next((group for group in groups if group[0].fits(call)), None)
        if home is None:
            groups.append([call])
        else:
            home.append(call)
    return groups


def make_as_one(calls: Sequence[NetworkCall]) -> list[Any]:
    """The outputs of a group's calls, in order, by one call of the network. Raises what that raises."""
    if len(calls) == 1:
        return [calls[0].make()]
    return calls[0].make_with(calls[1:])


@functools.cache
def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)


def _padded(call: NetworkCall) -> tuple[str, str] | None:
    """The names of texts and masks to be padded, if this call has both."""
    names = PADDED.get(type(call.network).__name__)
    return names if names is not None and all(name in call.values for name in names) else None


def _fit(first: NetworkCall, other: NetworkCall) -> bool:
    if first.network is not other.network or first.values.keys() != other.values.keys():
        return False
    sizes = (first.batch_size, other.batch_size)
    # an output other than a plain tuple is not parted
    if 0 in sizes or first.values.get("return_dict", True):
        return False
    ragged = (*RAGGED, *(_padded(first) or ()))
    return all(_alike(name, value, other.values[name], sizes, ragged) for name, value in first.values.items())


def _alike(name: str, one: Any, other: Any, sizes: tuple[int, int], ragged: tuple[str, ...]) -> bool:
    """Whether two values of parameter `name` can be passed in one call."""
    match one, other:
        case torch.Tensor(), torch.Tensor():
            if (one.dtype, one.device) != (other.dtype, other.device):
                return False
            if name in TIMESTEPS:
                one, other = _expanded(one, sizes[0]), _expanded(other, sizes[1])
            if name in ZEROS_MEAN_NONE and bool(one.any()) != bool(other.any()):
                return False
            per_sample = name not in POSITIONS and _per_sample(one, sizes[0])
            if per_sample and _per_sample(other, sizes[1]):
                behind = 2 if name in ragged else 1
                return bool(one.shape[behind:] == other.shape[behind:])
            return not per_sample and torch.equal(one, other)
        case list(), list() if name in (*LATENTS, *RAGGED):
            behind = 1 if name in ragged else 0
            kinds = {(item.dtype, item.device, item.shape[behind:]) for item in (*one, *other)}
            return len(kinds) == 1
        case (list(), list()) | (tuple(), tuple()) if name not in LISTS:
            return len(one) == len(other) and all(
                _alike(name, value, other[number], sizes, ragged) for number, value in enumerate(one)
            )
        case dict(), dict():
            return one.keys() == other.keys() and all(
                _alike(key, value, other[key], sizes, ragged) for key, value in one.items()
            )
        case (None, torch.Tensor()) | (torch.Tensor(), None):
            # no mask is a mask of ones
            return name in ragged
    return type(one) is type(other) and bool(one == other)


def _joined(name: str, values: list[Any], sizes: list[int]) -> Any:
    first = values[0]
    match first:
        case torch.Tensor():
            if name in TIMESTEPS:
                values = [_expanded(value, size) for value, size in zip(values, sizes, strict=True)]
            if name not in POSITIONS and _per_sample(values[0], sizes[0]):
                return torch.cat(values)
        case list() if name in (*LISTS, *LATENTS, *RAGGED):
            return [item for value in values for item in value]
        case list() | tuple():
            return type(first)(_joined(name, list(items), sizes) for items in zip(*values, strict=True))
        case dict():
            return {key: _joined(key, [value[key] for value in values], sizes) for key in first}
    return first


def _parted(output: Any, sizes: list[int], lists: bool) -> list[Any]:
    """`lists`: the network takes a list of samples, and returns such ones."""
    match output:
        case torch.Tensor():
            return list(torch.split(output, sizes))
        case list() if lists:
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            return [output[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        case tuple() | list():
            return list(zip(*(_parted(item, sizes, lists) for item in output), strict=True))
    raise TypeError(f"an output of {type(output).__name__} cannot be parted")


def _padded_texts(texts: list[Any], masks: list[Any]) -> tuple[list[Any], list[Any]]:
    """Texts [B, L, C] at the length of the longest, and masks to match; no masks if nothing is masked."""
    longest = max(text.shape[1] for text in texts)
    if all(mask is None and text.shape[1] == longest for text, mask in zip(texts, masks, strict=True)):
        return texts, masks
    padded = []
    for text, mask in zip(texts, masks, strict=True):
        filled = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask
        missing = longest - text.shape[1]
        padded.append(
            (torch.nn.functional.pad(text, (0, 0, 0, missing)), torch.nn.functional.pad(filled, (0, missing)))
        )
    return [text for text, _ in padded], [mask.bool() for _, mask in padded]


def _latents(values: dict[str, Any]) -> Any:
    """The value under the name of the latents; empty if there is none."""
    return next((values[name] for name in LATENTS if name in values), ())


def _per_sample(value: torch.Tensor, size: int) -> bool:
    return value.ndim > 0 and len(value) == size


def _expanded(value: torch.Tensor, size: int) -> torch.Tensor:
    """One number for the batch as one a sample, [size]; anything else as it is."""
    return value.reshape(1).expand(size) if value.numel() == 1 else value
