"""Which path a call of an op takes, and how often each was taken. Needs neither Triton nor a GPU.

One `Switch` is shared by all that is attached with it, as a rule by all models of a process. In mode
"triton" the kernel runs wherever it takes a call; in "auto" where it was measured to be the fastest on this
kind of device, and torch's path where torch's is, or where nothing was measured; in "torch" nothing is
attached at all.

What was measured only ever comes from outside (`use`), between requests and not in one: a choice that
changed while pictures are made would change their bits.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch

Mode = Literal["auto", "triton", "torch"]
MODES: tuple[str, ...] = get_args(Mode)

Path = Literal["triton", "torch"]


class KernelsUnavailable(ValueError):
    """Triton was asked for where it cannot run."""


class Choice(NamedTuple):
    """The faster path of a call, and the kernel's best settings, none for the shipped ones."""

    path: Path
    settings: tuple[int, ...] = ()


class Variant(NamedTuple):
    """One way to make a call: `run` makes it once on inputs of its own and returns the result."""

    path: Path
    settings: tuple[int, ...]
    run: Callable[[], torch.Tensor]


class Count(NamedTuple):
    """Calls of `op` on `path`. `reason`: why not on the kernel, "" if torch's was measured to be faster."""

    op: str
    path: Path
    reason: str
    calls: int


Variants = Callable[[], Sequence[Variant]]

NOT_MEASURED = "not measured"


def interpreted() -> bool:
    """Whether Triton runs its kernels as Python, as tests do where there is no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


class Switch:
    """Of one device. Calls may come from any thread, one at a time."""

    def __init__(self, mode: Mode, device: torch.device, chosen: Mapping[str, Choice] | None = None) -> None:
        """Raises `KernelsUnavailable` for "triton" where Triton has no device."""
        self.can_run = device.type == "cuda" or interpreted()
        if mode == "triton" and not self.can_run:
            raise KernelsUnavailable(
                f"kernels triton: Triton has no {device.type} device (TRITON_INTERPRET=1 runs it as Python)"
            )
        self.mode = mode
        self.device = device
        self.chosen: dict[str, Choice] = dict(chosen or {})
        self.recorded: dict[str, Variants] = {}
        self._recording = False
        self._asked: set[str] = set()
        self._counting = True
        self._counts: Counter[tuple[str, Path, str]] = Counter()

    @property
    def is_on(self) -> bool:
        """Whether attaching changes anything: without a device for Triton "auto" is "torch"."""
        return self.mode != "torch" and self.can_run

    def choice(self, op: str, key: str, variants: Variants) -> Choice:
        """The path of a call, which is counted.

        `key` says all that the speed of a call depends on, and never the size of the batch. `variants`
        makes inputs like the call's and every way to run it; it is kept while recording.
        """
        key = f"{op} {key}"
        known = self.chosen.get(key)
        if self._recording:
            self._asked.add(key)
            if known is None:
                self.recorded.setdefault(key, variants)
        if self.mode == "triton":
            known = Choice("triton", known.settings if known else ())
        path = known.path if known else "torch"
        self.count(op, path, "" if known else NOT_MEASURED)
        return known or Choice("torch")

    @contextlib.contextmanager
    def recording(self) -> Iterator[set[str]]:
        """Calls made inside, of which nothing was measured, are kept in `recorded`. Yields all keys."""
        self._asked = set()
        self._recording = True
        try:
            yield self._asked
        finally:
            self._recording = False

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Calls made inside are nobody's: they are measurements."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True

    def use(self, chosen: Mapping[str, Choice]) -> None:
        """From now on also these. What was chosen before stays."""
        self.chosen = {**chosen, **self.chosen}

    def count(self, op: str, path: Path, reason: str = "") -> None:
        """One call. What is compiled into a graph is not counted."""
        if self._counting and not torch.compiler.is_compiling():
            self._counts[op, path, reason] += 1

    def counts(self) -> tuple[Count, ...]:
        """Since the beginning. May be asked from any thread."""
        return tuple(Count(*key, calls) for key, calls in sorted(dict(self._counts).items()))


def size_class(n: int) -> int:
    """Sizes within a factor of two of a power of four are one: 1 to 2, up to 8, up to 32 and so on."""
    return max(0, math.ceil((math.log2(n) - 1) / 2)) if n > 0 else 0
