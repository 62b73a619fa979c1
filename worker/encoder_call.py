"""Calls of text encoders: which can be made as one, how they are joined, how the output is parted.

Only encoders named in `ENCODERS` are shared, and of their calls those that take nothing but token ids and
masks, [B, L] for B texts of L tokens. All others are made one by one: one that is also given pictures, for
example, takes the pictures of all its texts in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.utils import ModelOutput

from worker.network_call import NetworkCall

ENCODERS = {
    "CLIPTextModel": False,
    "CLIPTextModelWithProjection": False,
    "Mistral3ForConditionalGeneration": False,
    "Qwen2_5_VLForConditionalGeneration": True,
    "Qwen2_5_VLTextModel": False,
    "Qwen3ForCausalLM": False,
    "Qwen3Model": False,
    "T5EncoderModel": False,
    "UMT5EncoderModel": False,
}
"""By class: whether texts are padded behind to the longest. Qwen-Image encodes prompts at their own length
with a mask, and its encoder looks only backwards; families that pad all prompts to one length need none."""

_IDS, _MASK = "input_ids", "attention_mask"
_PLAIN = (bool, int, float, str, type(None))


class EncoderCall(NetworkCall):
    """One call of a text encoder, which is made before those of any loop."""

    goes_first = True

    @property
    def batch_size(self) -> int:
        return len(self._ids) if self._is_shareable else 0

    def fits(self, other: NetworkCall) -> bool:
        if not isinstance(other, EncoderCall) or self.network is not other.network:
            return False
        if not (self._is_shareable and other._is_shareable) or self.values.keys() != other.values.keys():
            return False
        if self._length != other._length and not (self._is_padded and other._is_padded):
            return False
        return all(_alike(value, other.values[name]) for name, value in self.values.items())

    def make_with(self, others: Sequence[NetworkCall]) -> list[Any]:
        calls = [self, *(call for call in others if isinstance(call, EncoderCall))]
        sizes, lengths = [call.batch_size for call in calls], [call._length for call in calls]
        values = dict(self.values)
        for name in (_IDS, _MASK):
            if isinstance(values.get(name), torch.Tensor):
                # the mask's zeros hide what stands behind a shorter text
                values[name] = torch.cat([_padded(call.values[name], max(lengths)) for call in calls])
        return _parted(self.network(**values), sizes, lengths)

    @property
    def _ids(self) -> torch.Tensor:
        ids: torch.Tensor = self.values[_IDS]
        return ids

    @property
    def _length(self) -> int:
        return self._ids.shape[1]

    @property
    def _is_padded(self) -> bool:
        return ENCODERS[type(self.network).__name__] and self.values.get(_MASK) is not None

    @property
    def _is_shareable(self) -> bool:
        """Whether it has nothing of each text but its tokens and their mask."""
        ids, mask = self.values.get(_IDS), self.values.get(_MASK)
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2:
            return False
        if isinstance(mask, torch.Tensor) and mask.shape != ids.shape:
            return False
        return all(
            isinstance(value, torch.Tensor if name in (_IDS, _MASK) and value is not None else _PLAIN)
            for name, value in self.values.items()
        )


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return (one.dtype, one.device) == (other.dtype, other.device)
    return type(one) is type(other) and bool(one == other)


def _padded(texts: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(texts, (0, length - texts.shape[1]))


def _parted(output: Any, sizes: list[int], lengths: list[int]) -> list[Any]:
    """The output of each call, at its own length."""
    match output:
        case torch.Tensor():
            longest = max(lengths)
            parts = torch.split(output, sizes)
            if min(lengths) == longest or output.ndim < 2 or output.shape[1] != longest:
                return list(parts)
            return [part[:, :length].contiguous() for part, length in zip(parts, lengths, strict=True)]
        case ModelOutput():
            # without the keys and values that a decoder keeps for the next token: nobody asks for one
            fields = {
                name: _parted(value, sizes, lengths)
                for name, value in output.items()
                if isinstance(value, torch.Tensor | tuple)
            }
            return [
                type(output)(**{name: parts[number] for name, parts in fields.items()})
                for number in range(len(sizes))
            ]
        case tuple():
            return list(zip(*(_parted(item, sizes, lengths) for item in output), strict=True))
    raise TypeError(f"an output of {type(output).__name__} cannot be parted")
