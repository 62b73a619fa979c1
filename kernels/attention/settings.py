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

# NOT TIMED on a GPU: the largest tiles whose sums, scores and queries the compiler keeps in registers there
# (`python -m bench kernel-code`). What a start measures comes first.
_HOPPER: dict[tuple[int, bool], Settings] = {
    # (padded head size at most, few keys)
    (128, True): Settings(64, 64, 4, 2),
    (256, True): Settings(64, 32, 8, 2),
    (512, True): Settings(64, 16, 8, 3),
    (64, False): Settings(128, 128, 8, 3),
    (128, False): Settings(128, 64, 8, 3),
    (192, False): Settings(128, 64, 8, 2),
    (256, False): Settings(128, 32, 8, 2),
    (512, False): Settings(64, 16, 8, 3),
}

# Of A100, by the same rule, and within the 96 KiB of shared memory that smaller ones have.
_ANY: dict[tuple[int, bool], Settings] = {
    (64, True): Settings(64, 64, 4, 2),
    (64, False): Settings(128, 64, 8, 3),
    (128, True): Settings(128, 32, 8, 2),
    (128, False): Settings(128, 32, 8, 2),
    (256, True): Settings(32, 32, 8, 2),
    (256, False): Settings(32, 32, 8, 2),
    (512, True): Settings(16, 16, 8, 2),
    (512, False): Settings(16, 16, 8, 2),
}

# Without matrix units a product keeps whole heads of both factors in registers; those of 128 and more spill
# whatever the tile. Three products of ten bits each would not, and are not taken before somebody has seen how
# exact they are.
_FLOAT32: dict[tuple[int, bool], Settings] = {
    (32, True): Settings(32, 32, 8, 1),
    (32, False): Settings(32, 32, 8, 1),
    (48, True): Settings(32, 16, 8, 1),
    (48, False): Settings(32, 16, 8, 1),
    (512, True): Settings(16, 16, 8, 1),
    (512, False): Settings(16, 16, 8, 1),
}

# The time of Triton's interpreter goes by programs and blocks.
_INTERPRETED: dict[tuple[int, bool], Settings] = {
    (512, True): Settings(64, 64, 4, 1),
    (512, False): Settings(64, 64, 4, 1),
}

SHIPPED: dict[str, dict[tuple[int, bool], Settings]] = {"H100": _HOPPER, "H200": _HOPPER, "": _ANY}
"""By a word of the device's name, the first that fits."""


def settings_for(device_name: str, dtype: torch.dtype, head_size: int, n_keys: int) -> Settings:
    """The shipped settings for this call. `device_name`: "" for a CPU, where the kernel is interpreted."""
    if not device_name:
        table = _INTERPRETED
    elif dtype == torch.float32:
        table = _FLOAT32
    else:
        table = next(table for word, table in SHIPPED.items() if word in device_name)
    padded, few = sum(head_blocks(head_size)), n_keys <= SHORT_KEYS
    return next(each for (limit, short), each in table.items() if padded <= limit and short == few)


def candidates(
    device_name: str, capability: int, dtype: torch.dtype, head_size: int, n_keys: int
) -> list[Settings]:
    """What the tuner tries, the most likely first. `capability`: 10 times major plus minor, 90 for Hopper."""
    shipped = settings_for(device_name, dtype, head_size, n_keys)
    if dtype == torch.float32:
        return list(dict.fromkeys([shipped, *_FLOAT32.values(), Settings(64, 32, 8, 1)]))
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
    256: ((128, 64, 8), (64, 64, 8), (64, 32, 8)),
    512: ((64, 16, 8), (64, 32, 8), (64, 16, 16), (16, 16, 8)),
}
"""By padded head size at most: queries, keys, warps."""
