"""Memory of a device that ran out: which errors say so, what they tell, and giving back what they hold.

An exception keeps every frame that it passed, and those keep the activations of the stage that failed, so the
frames are cleared before anything else is tried. Libraries wrap such errors in others (diffusers raises a
`ValueError` for whatever goes wrong while loading), so the whole chain is looked at.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

_TOLD_BY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts of the plain `RuntimeError`s by which torch 2.13 says that there is no memory."""


def out_of_memory(error: BaseException) -> BaseException | None:
    """The error in the chain of `error` that says that there is no memory, if one does."""
    return next((one for one in _chain(error) if _says_so(one)), None)


def told(error: BaseException, device: torch.device) -> str:
    """What is known of it in one line: the allocator's words, or the error's class, and what is free now."""
    short = out_of_memory(error) or error
    words = " ".join(str(short).split())[:300] or type(short).__name__
    free_bytes = _free_bytes(device)
    return words if free_bytes is None else f"{words}; {free_bytes / 2**20:.0f} MiB are free now"


def give_back(device: torch.device, error: BaseException | None = None) -> None:
    """Free what nobody needs any more, with what the frames hold that `error` passed and that have ended."""
    if error is not None:
        for one in _chain(error):
            traceback.clear_frames(one.__traceback__)
    # a pipeline's parts refer to each other, and what is freed only later looks like no memory
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _says_so(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TOLD_BY)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all those that it was raised from or while handling, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__context__, one.__cause__]


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        free_bytes: int = torch.cuda.mem_get_info(device)[0]
        return free_bytes
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    available = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(available[0]) * 1024 if available else None
