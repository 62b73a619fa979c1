"""Stand-ins for the parts of a pipeline that this worker does not hold.

Blocks read sizes and types from parts whose weights they never touch: the denoise stage asks the VAE for its
scale factor, the text stage asks the transformer for its width. A stand-in answers those from an instance on
the meta device, and fails loudly when asked for more. It is no `nn.Module`, because a pipeline takes its
device from the first module it finds.
"""

from __future__ import annotations

from typing import Any

import torch

from worker.errors import ComponentNotHeld


class ConfigOnly:
    """Plain attributes of `component` (config, dtype, numbers, names), and nothing that computes."""

    def __init__(self, component: str, meta: torch.nn.Module) -> None:
        self._component = component
        self._meta = meta

    @property
    def n_bytes(self) -> int:
        """Bytes that its weights would take."""
        tensors = (*self._meta.parameters(), *self._meta.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._meta, name)
        if callable(value) or isinstance(value, (torch.Tensor, torch.nn.Module)):
            raise ComponentNotHeld(
                f"{self._component}.{name} was asked for, but its weights are not held here"
            )
        return value

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise ComponentNotHeld(f"{self._component} was called, but its weights are not held here")


def stand_in(component: str, spec: Any, dtype: torch.dtype) -> ConfigOnly:
    """The stand-in for the part that `spec` (a `ComponentSpec`) would load. Reads only its config file."""
    source, subfolder = spec.pretrained_model_name_or_path, spec.subfolder
    with torch.device("meta"):
        if hasattr(spec.type_hint, "config_class") and spec.type_hint.config_class is not None:
            config = spec.type_hint.config_class.from_pretrained(source, subfolder=subfolder)
            meta = spec.type_hint(config)
        else:
            meta = spec.type_hint.from_config(spec.type_hint.load_config(source, subfolder=subfolder))
    return ConfigOnly(component, meta.to(dtype))
