"""The parts with weights that one worker holds, each once, whichever of its models use it.

A part comes from the models that hold it already, else from the node's host copy, else from disk, and then
the host copy is made of it, so that the next load of any worker of the node reads nothing from disk. On a CPU
a part is computed with where its copy is mapped, and all workers together hold it once. A part lives as long
as some pipeline refers to it.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from kernels.attach import attach
from kernels.switch import Switch
from pipelines.catalogue import Model
from worker.component_source import name_of, place_of
from worker.errors import HostFolderFull, LoadRefused
from worker.host_copy import HostCopy, difference, made_from
from worker.host_folder import HeldFile, HostFolder
from worker.host_sources import HostSources
from worker.memory import out_of_memory, told

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One component. `origin`: "held", "host" or "disk". `name`: of its files, None if they are unknown.

    `note`: why there is no host copy of it, if there should be one. `held`: the copy whose pages it is on.
    """

    module: torch.nn.Module
    origin: str
    name: str | None
    note: str = ""
    held: HeldFile | None = None


class Components:
    """What a worker holds. For one thread.

    `host`: the node's folder of host copies, None for none. `memory_bytes`: bound of the weights held, on a
    GPU of everything that torch allocates.
    """

    def __init__(
        self,
        device: torch.device,
        host: HostFolder | None = None,
        memory_bytes: int | None = None,
        switch: Switch | None = None,
    ) -> None:
        """`switch`: of the kernels, which every part is attached to as it is loaded; None for torch's own."""
        self.sources = HostSources(host)
        self.switch = Switch("torch", device) if switch is None else switch
        self._device = device
        self._host = host
        self._memory_bytes = memory_bytes
        self._held: weakref.WeakValueDictionary[str, torch.nn.Module] = weakref.WeakValueDictionary()
        self._nameless: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._uncopied: dict[str, str] = {}
        if memory_bytes is not None and device.type == "cuda":
            total_bytes = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total_bytes), device)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights and buffers held, each once."""
        return sum(n_bytes_of(module) for module in (*self._held.values(), *self._nameless))

    @property
    def host_bytes(self) -> int:
        """Bytes of the node's host copies, which are those of all its workers."""
        return 0 if self._host is None else self._host.used_bytes()

    def opened(self, model: Model) -> Model:
        """`model` as it is read from: from the copy of its small files if its folder is gone."""
        return msgspec.structs.replace(model, source=self.sources.open(model.source))

    def check_room(self, wanted: list[tuple[Any, int]], dtype: torch.dtype) -> None:
        """Raises `LoadRefused` if there is no room for the parts of these specs, each of so many bytes."""
        if self._memory_bytes is None:
            return
        more = {
            spec.name: n_bytes for spec, n_bytes in wanted if self._held_as(self._name(spec, dtype)) is None
        }
        held_bytes = self.resident_bytes
        if held_bytes + sum(more.values()) > self._memory_bytes:
            raise LoadRefused(
                f"{', '.join(sorted(more))} need {sum(more.values())} bytes, and {held_bytes} of the"
                f" {self._memory_bytes} that this worker may hold are taken"
            )

    def load(self, spec: Any, dtype: torch.dtype) -> Part:
        """The part that `spec` (a diffusers `ComponentSpec`) says, on the device. Raises `LoadRefused`."""
        name = self._name(spec, dtype)
        if (module := self._held_as(name)) is not None:
            return Part(module, "held", name)
        try:
            part = (
                self._from_disk(spec, dtype, name) if self._host is None else self._shared(spec, dtype, name)
            )
            module = part.module.to(self._device).eval().requires_grad_(False)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            is_short = out_of_memory(error) is not None
            reason = f"out of memory: {told(error, self._device)}" if is_short else str(error)
            raise LoadRefused(f"{spec.name}: {reason}") from error
        if part.held is not None:
            if self._device.type == "cpu":
                weakref.finalize(module, part.held.close)
            else:
                part.held.close()
        attach(module, self.switch)
        # files that had to be fetched have a name only now
        name = name or self._name(spec, dtype)
        if name is None:
            self._nameless.add(module)
        else:
            self._held[name] = module
        return Part(module, part.origin, name, part.note)

    def forget(self, names: frozenset[str]) -> None:
        """Drop the host copies of these parts, unless some worker uses them."""
        if self._host is not None:
            for name in names.difference(self._held):
                self._host.remove(name)

    def _held_as(self, name: str | None) -> torch.nn.Module | None:
        return None if name is None else self._held.get(name)

    def _name(self, spec: Any, dtype: torch.dtype) -> str | None:
        """Of the files as they are, or of those that were there last if they are gone."""
        source = self.sources.original(spec.pretrained_model_name_or_path)
        name = name_of(spec, source, dtype)
        if name is None and self._host is not None:
            return self._host.remembered(place_of(spec, source, dtype))
        return name

    def _from_disk(self, spec: Any, dtype: torch.dtype, name: str | None, note: str = "") -> Part:
        # pickled weights are refused: loading one runs whatever code it holds
        return Part(spec.load(dtype=dtype, use_safetensors=True), "disk", name, note)

    def _shared(self, spec: Any, dtype: torch.dtype, name: str | None) -> Part:
        """From the host copy, or from disk with a host copy made of it if that can be."""
        assert self._host is not None
        if name is None or name in self._uncopied:
            return self._from_disk(spec, dtype, name, self._uncopied.get(name or "", ""))
        # two workers that start together read the disk once
        with self._host.alone(name):
            held = self._host.open(name)
            if held is not None:
                return Part(self._made(spec, dtype, name, held), "host", name, held=held)
            part = self._from_disk(spec, dtype, name)
            try:
                return self._copied(spec, dtype, name, part.module)
            except (HostFolderFull, OSError) as full:
                note = f"no host copy of {spec.name}: {full}"
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
                # what cannot be said in such a file, or made again from it, cannot be another time either
                note = self._uncopied[name] = f"no host copy of {spec.name}: {error}"
            log.warning(note)
            return Part(part.module, "disk", name, note)

    def _copied(self, spec: Any, dtype: torch.dtype, name: str, loaded: torch.nn.Module) -> Part:
        """`loaded` once more, on the pages of its new host copy, which every worker will use."""
        assert self._host is not None
        copy = HostCopy(loaded)
        held = self._host.write(name, copy.n_bytes, copy.write)
        module = self._made(spec, dtype, name, held)
        if (reason := difference(module, loaded)) is not None:
            held.close()
            self._host.remove(name)
            raise ValueError(f"made again, {reason}")
        return Part(module, "disk", name, held=held)

    def _made(self, spec: Any, dtype: torch.dtype, name: str, held: HeldFile) -> torch.nn.Module:
        """From its copy, which leaves if that cannot be done."""
        assert self._host is not None
        try:
            module = made_from(held, spec.type_hint, dtype)
        except BaseException:
            held.close()
            self._host.remove(name)
            raise
        module._diffusers_load_id = spec.load_id
        source = self.sources.original(spec.pretrained_model_name_or_path)
        try:
            self._host.remember(place_of(spec, source, dtype), name)
        except OSError as error:
            log.warning("the copy of %s is not found again once its files are gone: %s", spec.name, error)
        return module


def n_bytes_of(module: torch.nn.Module) -> int:
    """Bytes of its parameters and buffers."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
