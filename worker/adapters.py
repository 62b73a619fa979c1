"""LoRA adapters of one resident model's denoisers: a bounded number loaded, at most one on, for one loop.

Between loops every adapter is disabled, and a layer whose adapters are disabled computes what its base layer
computes, bit for bit. Fusing would spare a product per layer, but fusing and taking out again rounds the base
weights, so the next picture without an adapter would be another one. Two traps of the library decide the
order in which things are called: an adapter that is loaded while adapters are disabled stays off without a
word, and each load makes the newest adapter the only active one. So putting on is load, enable, set, always.

What is loaded, and in which order it was used, is read off the denoiser itself: one that was evicted and
loaded again has no adapters, and one that several models share has those of all, within one bound.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from diffusers.loaders import PeftAdapterMixin

from pipelines.errors import FieldRefused
from wire.generation import Adapter
from worker.errors import AdapterRefused

DENOISERS = ("transformer", "transformer_2", "unet")
"""Names under which pipelines know the networks that run in the denoise loop."""

_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.weight")

Shapes = dict[str, dict[str, tuple[int, ...]]]
"""By module: the shapes of its halves, "A" [rank, in, ...] and "B" [out, rank, ...]."""


class AdapterCache:
    """Puts adapters on one model's denoisers, the least recently used dropped first. For one thread."""

    def __init__(self, capacity: int = 8) -> None:
        """`capacity`: how many adapters stay loaded on a denoiser, at least 1."""
        self._capacity = capacity
        self._about: dict[str, tuple[str, ...]] = {}
        self._on: Adapter | None = None
        self._n_inside = 0

    @contextmanager
    def put_on(self, denoisers: Mapping[str, Any], adapter: Adapter | None) -> Iterator[None]:
        """`adapter` is on inside, at its scale, and off behind, whatever is raised inside; None: the base.

        `denoisers`: the model's networks by component name. Several may be inside at a time if their adapters
        are equal; the last to leave takes it off. Raises `AdapterRefused` naming the adapter, and
        `FieldRefused` for "lora" where a network takes none; the networks then compute as before.
        """
        assert not self._n_inside or adapter == self._on, "loops with different adapters at a time"
        if not self._n_inside and adapter is not None:
            self._turn_on(denoisers, adapter)
        self._on = adapter
        self._n_inside += 1
        try:
            yield
        finally:
            self._n_inside -= 1
            if not self._n_inside and adapter is not None:
                _turn_off(denoisers)

    def _turn_on(self, denoisers: Mapping[str, Any], adapter: Adapter) -> None:
        if not denoisers:
            raise FieldRefused("lora", f"the denoiser is none of {', '.join(DENOISERS)}, so it takes no LoRA")
        for component, denoiser in denoisers.items():
            if not isinstance(denoiser, PeftAdapterMixin):
                raise FieldRefused("lora", f"{component} is a {type(denoiser).__name__}, which takes no LoRA")
        try:
            name = self._loaded(denoisers, adapter)
            for denoiser in denoisers.values():
                if name in _held(denoiser):
                    denoiser.enable_lora()
                    denoiser.set_adapters(name, adapter.scale)
        except BaseException:
            _turn_off(denoisers)
            raise

    def _loaded(self, denoisers: Mapping[str, Any], adapter: Adapter) -> str:
        """The library's name of `adapter`, which is loaded when this returns."""
        file = _weights_file(adapter)
        name = _name_of(file)
        about = self._about.get(name, ())
        if not about or not all(name in _held(denoisers[component]) for component in about):
            parts = _by_denoiser(adapter, _read_shapes(adapter, file), denoisers)
            missing = [component for component in parts if name not in _held(denoisers[component])]
            for component in missing:
                while len(held := _held(denoisers[component])) >= self._capacity:
                    _delete(denoisers, held[0])
            try:
                for component in missing:
                    prefix, shapes = parts[component]
                    _load(denoisers[component], file, prefix, name, shapes)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                _delete(denoisers, name)
                raise AdapterRefused(adapter.name, f"cannot be loaded: {error}") from error
            self._about[name] = tuple(parts)
        for denoiser in denoisers.values():
            _note_used(denoiser, name)
        return name


def _turn_off(denoisers: Mapping[str, Any]) -> None:
    for denoiser in denoisers.values():
        denoiser.disable_lora()


def _weights_file(adapter: Adapter) -> Path:
    source = Path(adapter.source)
    files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    if len(files) != 1:
        raise AdapterRefused(adapter.name, f"{source} holds {len(files)} safetensors files, expected 1")
    if files[0].suffix != ".safetensors":
        # a pickle runs whatever code it holds
        raise AdapterRefused(adapter.name, f"{source} is no safetensors file")
    if not files[0].is_file():
        raise AdapterRefused(adapter.name, f"there is no file {source}")
    return files[0]


def _name_of(file: Path) -> str:
    """Another one if the file was replaced. Names with dots are no use: they become names of parameters."""
    status = file.stat()
    identity = f"{file.resolve()} {status.st_mtime_ns} {status.st_size}"
    return f"lora_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _read_shapes(adapter: Adapter, file: Path) -> Shapes:
    """What the file's header says. Raises `AdapterRefused` for a key that is no half of a LoRA product."""
    shapes: Shapes = {}
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - the file is no mapping
                match = _KEY.fullmatch(key)
                if match is None:
                    raise AdapterRefused(adapter.name, f"{key} is no LoRA key (…lora_A.weight)")
                shape = tuple(opened.get_slice(key).get_shape())
                shapes.setdefault(match["module"], {})[match["half"]] = shape
    except (OSError, safetensors.SafetensorError) as error:
        raise AdapterRefused(adapter.name, f"{file} is no safetensors file: {error}") from error
    if not shapes:
        raise AdapterRefused(adapter.name, f"{file} holds no LoRA keys")
    return shapes


def _by_denoiser(
    adapter: Adapter, shapes: Shapes, denoisers: Mapping[str, Any]
) -> dict[str, tuple[str | None, Shapes]]:
    """For each denoiser that the file is about: the prefix of its keys, and their shapes without it.

    A file's keys begin with component names, or are all about the only denoiser.
    """
    prefixed = any(module.startswith(f"{component}.") for module in shapes for component in denoisers)
    if not prefixed and len(denoisers) > 1:
        names = ", ".join(denoisers)
        raise AdapterRefused(adapter.name, f"its keys must begin with one of {names}, which this model has")
    parts: dict[str, tuple[str | None, Shapes]] = {}
    for module, halves in shapes.items():
        component, _, path = module.partition(".") if prefixed else (next(iter(denoisers)), "", module)
        if component not in denoisers:
            raise AdapterRefused(adapter.name, f"it is about {module} too, which is no part of the denoiser")
        _check_fit(adapter, denoisers[component], path, halves)
        parts.setdefault(component, (component if prefixed else None, {}))[1][path] = halves
    return parts


def _check_fit(adapter: Adapter, denoiser: Any, path: str, halves: dict[str, tuple[int, ...]]) -> None:
    """The library itself passes over keys of modules that do not exist."""
    try:
        weight = denoiser.get_submodule(path).weight
    except AttributeError:
        raise AdapterRefused(adapter.name, f"the denoiser has no layer {path}") from None
    if halves.keys() != {"A", "B"}:
        raise AdapterRefused(adapter.name, f"only one half of the product for {path} is there")
    down, up, fits = halves["A"], halves["B"], tuple(weight.shape)
    if len(down) != len(fits) or len(up) != len(fits) or down[0] != up[1] or (up[0], *down[1:]) != fits:
        raise AdapterRefused(
            adapter.name, f"its shapes {list(down)} and {list(up)} do not fit {path}, which is {list(fits)}"
        )


def _load(denoiser: Any, file: Path, prefix: str | None, name: str, shapes: Shapes) -> None:
    with _several_are_meant():
        denoiser.load_lora_adapter(
            str(file.parent),
            weight_name=file.name,
            prefix=prefix,
            adapter_name=name,
            use_safetensors=True,
            local_files_only=True,
        )
    missed = [path for path in shapes if name not in getattr(denoiser.get_submodule(path), "lora_A", ())]
    if missed:
        raise ValueError(f"its own metadata leave out {', '.join(missed)}")
    # new layers come in training mode, where an adapter's dropout is on
    denoiser.eval().requires_grad_(False)


def _held(denoiser: torch.nn.Module) -> tuple[str, ...]:
    """The adapters of the denoiser, the least recently used first."""
    return tuple(getattr(denoiser, "peft_config", ()))


def _note_used(denoiser: Any, name: str) -> None:
    if name in _held(denoiser):
        denoiser.peft_config[name] = denoiser.peft_config.pop(name)


def _delete(denoisers: Mapping[str, Any], name: str) -> None:
    with _several_are_meant():
        for denoiser in denoisers.values():
            denoiser.delete_adapters(name)


@contextmanager
def _several_are_meant() -> Iterator[None]:
    """Without the library's warnings that there is more than one adapter, and which one is active now."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute", UserWarning)
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted", UserWarning)
        yield
