"""How the kernel is cut up, by device, type, head size and number of keys. Needs no Triton.

The bits of a result depend on these settings and on nothing else but the row's own inputs. So they never
depend on the number of sequences in the batch, nor on how many queries there are: a row has the same bits
whoever is beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Settings(NamedTuple):
    """`block_q` queries and `block_k` keys a step; `warps` per program; `stages` of loads in flight.

    `descriptors`: keys and values come by the bulk tensor copy engine (compute capability 9.0 and newer).
    `specialised`: loading and computing are given to different warps. `persistent`: one program per
    multiprocessor goes from tile to tile. All are ints, since they travel through a torch op as a list.
    """

    block_q: int
    block_k: int
    warps: int
    stages: int
    descriptors: int = 0
    specialised: int = 0
    persistent: int = 0


def head_blocks(head_size: int) -> tuple[int, int]:
    """Two widths, the second 0 or a power of two, that hold the head and waste the least: 80 is 64 + 16.

    One width is taken over two of the same sum, since two halve the work of each matrix product.
    """
    whole = max(16, 1 << (head_size - 1).bit_length())
    first = whole // 2
    if first < 16 or head_size <= first:
        return whole, 0
    second = max(16, 1 << (head_size - first - 1).bit_length())
    return (first, second) if first + second < whole else (whole, 0)


SHORT_KEYS = 512
"""Up to so many keys (text, as a rule) the loop is too short for deep pipelining."""

# NOT MEASURED: chosen by what fits into registers and shared memory of Hopper. What a start measures comes
# first.
_HOPPER: dict[tuple[int, bool], Settings] = {
    # (padded head size at most, few keys)
    (32, True): Settings(64, 64, 4, 2),
    (64, True): Settings(64, 64, 4, 2),
    (128, True): Settings(64, 64, 4, 2),
    (256, True): Settings(64, 32, 4, 2),
    (512, True): Settings(64, 32, 8, 1),
    (32, False): Settings(128, 128, 8, 3),
    (64, False): Settings(128, 128, 8, 3),
    (128, False): Settings(128, 64, 8, 3),
    (256, False): Settings(128, 64, 8, 2),
    (512, False): Settings(64, 32, 8, 2),
}

# NOT MEASURED: what runs anywhere with 96 KiB of shared memory.
_ANY: dict[tuple[int, bool], Settings] = {
    (64, True): Settings(64, 64, 4, 2),
    (128, True): Settings(64, 64, 4, 2),
    (256, True): Settings(64, 32, 4, 1),
    (512, True): Settings(32, 16, 4, 1),
    (64, False): Settings(128, 64, 4, 3),
    (128, False): Settings(128, 64, 8, 2),
    (256, False): Settings(64, 32, 8, 1),
    (512, False): Settings(32, 16, 4, 1),
}

SHIPPED: dict[str, dict[tuple[int, bool], Settings]] = {"H100": _HOPPER, "H200": _HOPPER, "": _ANY}
"""By a word of the device's name, the first that fits."""


def settings_for(device_name: str, dtype: torch.dtype, head_size: int, n_keys: int) -> Settings:
    """The shipped settings for this call."""
    table = next(table for word, table in SHIPPED.items() if word in device_name)
    padded, few = sum(head_blocks(head_size)), n_keys <= SHORT_KEYS
    found = next(each for (limit, short), each in table.items() if padded <= limit and short == few)
    return found if dtype != torch.float32 else _for_float32(found, padded)


def _for_float32(settings: Settings, padded: int) -> Settings:
    """Twice the bytes, and arithmetic without matrix units: tiles a quarter of the size."""
    side = 64 if padded <= 64 else 32 if padded <= 256 else 16
    return settings._replace(block_q=side, block_k=max(16, side // 2), warps=4, stages=1)


def candidates(
    device_name: str, capability: int, dtype: torch.dtype, head_size: int, n_keys: int
) -> list[Settings]:
    """What the tuner tries, the most likely first. `capability`: 10 times major plus minor, 90 for Hopper."""
    shipped = settings_for(device_name, dtype, head_size, n_keys)
    if dtype == torch.float32:
        return [shipped, shipped._replace(warps=8), shipped._replace(block_q=2 * shipped.block_q, warps=8)]
    padded = sum(head_blocks(head_size))
    plain = [
        shipped,
        *(
            Settings(block_q, block_k, warps, stages)
            for block_q, block_k, warps in _TILES[min(limit for limit in _TILES if padded <= limit)]
            for stages in (2, 3)
        ),
    ]
    if n_keys <= SHORT_KEYS:
        return list(dict.fromkeys(plain))
    more = [shipped._replace(persistent=1)]
    if capability >= 90:
        more += [each._replace(descriptors=1) for each in plain[:5]]
        more += [shipped._replace(descriptors=1, persistent=1)]
        more += [shipped._replace(descriptors=1, specialised=1, warps=warps) for warps in (4, 8)]
    return list(dict.fromkeys([*plain, *more]))


_TILES: dict[int, tuple[tuple[int, int, int], ...]] = {
    64: ((128, 128, 8), (128, 64, 4), (64, 64, 4), (128, 64, 8)),
    128: ((128, 128, 8), (128, 64, 8), (64, 64, 4), (64, 128, 4)),
    256: ((128, 64, 8), (64, 64, 8), (64, 32, 4)),
    512: ((64, 32, 8), (64, 64, 8), (128, 32, 8), (32, 32, 4)),
}
"""By padded head size at most: queries, keys, warps."""
