"""Encode results that are kept for later requests: by what went into them, the least recently used leave.

Most prompts are asked for more than once (the pictures of one request share theirs), and what the encode
stages make of one depends on nothing else: no random number is drawn in them. One that was made in a batch
is not for who asked for the very bits. The cache is one owner of each file among others, so a file lives on
under the jobs that use it when its entry leaves. It is part of the handoff store, where jobs come first: it
gives way before the store is full.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

import msgpack

from gateway.handoffs import Handoffs
from pipelines.catalogue import Model
from pipelines.families import is_guided, pipeline_inputs
from pipelines.graph import StageGraph
from wire.generation import Exactness, Generation, allows
from wire.handle import Handle

EncodeKey = tuple[str, str]
"""(model, digest of the inputs that its encode stages read)."""


def encode_key(generation: Generation, model: Model, graph: StageGraph) -> EncodeKey | None:
    """What the result of all encode stages depends on: the inputs that they read.

    None if it is not to be shared: one that starts from a picture, or that draws random numbers. An adapter
    is none of the inputs, because ours change the denoiser only.
    """
    reads = {name for stage in graph.stages if stage.kind == "encode" for name in stage.reads}
    if not reads or "generator" in reads or generation.image is not None:
        return None
    family = model.family_table
    inputs = pipeline_inputs(family, generation, model.inputs)
    read = sorted((name, value) for name, value in inputs.items() if name in reads)
    guided = is_guided(family, generation.guidance_scale)
    packed = msgpack.packb([generation.workflow, guided, read])
    return graph.model, hashlib.sha256(packed).hexdigest()


class Encoded(NamedTuple):
    """The result of encode stages, and what is kept of their promise in it."""

    handle: Handle
    exactness: Exactness


class EncodeCache:
    """Results by key, at most `capacity_bytes` of them, none with a capacity of 0.

    `store_bytes` bounds the whole store: entries leave while jobs and cache own more than half of it.
    """

    def __init__(self, handoffs: Handoffs, *, capacity_bytes: int, store_bytes: int) -> None:
        self._handoffs = handoffs
        self._capacity_bytes = capacity_bytes
        self._store_bytes = store_bytes
        self._entries: OrderedDict[EncodeKey, Encoded] = OrderedDict()
        self._n_bytes = 0
        self.n_put = 0
        self.n_hits = 0
        self.n_misses = 0

    @property
    def is_on(self) -> bool:
        return self._capacity_bytes > 0

    def has(self, key: EncodeKey | None, asked: Exactness) -> bool:
        """Whether there is a result for `key` that keeps as much as was `asked`."""
        return key is not None and key in self._entries and allows(asked, self._entries[key].exactness)

    def take(self, key: EncodeKey | None, asked: Exactness) -> Encoded | None:
        """The result for `key`, of whose file the caller is now an owner too; a hit if `has` says so."""
        if key is None or not self.has(key, asked):
            return None
        encoded = self._entries[key]
        self._entries.move_to_end(key)
        self._handoffs.share(encoded.handle)
        self.n_hits += 1
        return encoded

    def missed(self) -> None:
        """Encode stages had to be run for a job whose result could have been here."""
        self.n_misses += 1

    def put(self, key: EncodeKey | None, handle: Handle, exactness: Exactness) -> bool:
        """Share a file that a job owns. False if it is not kept: as good a one is known, or too large."""
        if key is None or self.has(key, exactness) or handle.n_bytes > self._capacity_bytes:
            return False
        if key in self._entries:
            self._evict(key)
        self._handoffs.share(handle)
        self._entries[key] = Encoded(handle, exactness)
        self._n_bytes += handle.n_bytes
        self.n_put += 1
        self.give_way()
        return key in self._entries

    def give_way(self) -> None:
        """Evict until the bounds hold, the least recently used first."""
        while self._entries and (
            self._n_bytes > self._capacity_bytes or 2 * self._handoffs.n_bytes > self._store_bytes
        ):
            self._evict(next(iter(self._entries)))

    def drop(self, handle: Handle) -> None:
        """The file behind `handle` is gone."""
        for key in [key for key, held in self._entries.items() if held.handle.name == handle.name]:
            self._evict(key)

    def forget(self, model: str) -> None:
        """The model is gone, and what another of that name would make may be something else."""
        for key in [key for key in self._entries if key[0] == model]:
            self._evict(key)

    def clear(self) -> None:
        """The store is full."""
        while self._entries:
            self._evict(next(iter(self._entries)))

    def statistics(self) -> dict[str, int]:
        """Entries, their bytes, hits and misses."""
        return {
            "entries": len(self._entries),
            "n_bytes": self._n_bytes,
            "hits": self.n_hits,
            "misses": self.n_misses,
        }

    def _evict(self, key: EncodeKey) -> None:
        handle = self._entries.pop(key).handle
        self._n_bytes -= handle.n_bytes
        self._handoffs.free(handle)
