"""Attention at the shapes of the served families, against torch's default and each of its backends."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.kernels.clock import Clock, Run
from bench.kernels.rows import Job, Row
from kernels.attend import Attend
from kernels.attention import attention
from kernels.switch import Choice, Switch
from kernels.tuning import tune

_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_MATH_BYTES = 4 << 30
_TUNE_S = 20.0
MOST_DIFFERENT = 2e-2
"""Of ||a - b|| / ||b||, two results in bfloat16."""


class Shape(NamedTuple):
    """Queries, keys, heads, head size of one picture or clip."""

    name: str
    n_queries: int
    n_keys: int
    n_heads: int
    size: int


def shapes() -> list[Shape]:
    """The most important first. Tokens: pixels over 16 x 16 and the text; SDXL's UNet has two levels."""
    made = []
    for px in (1024, 512, 2048):
        tokens = (px // 16) ** 2
        made += [
            Shape(f"SD3 {px} px", tokens + 333, tokens + 333, 24, 64),
            Shape(f"Flux {px} px", tokens + 512, tokens + 512, 24, 128),
            Shape(f"SDXL {px} px, level 1", tokens, tokens, 10, 64),
            Shape(f"Qwen-Image {px} px", tokens + 128, tokens + 128, 24, 128),
            Shape(f"SDXL {px} px, level 2", tokens // 4, tokens // 4, 20, 64),
            Shape(f"SDXL {px} px, level 1, text", tokens, 77, 10, 64),
            Shape(f"VAE's middle, {px} px", 4 * tokens, 4 * tokens, 1, 512),
        ]
    clip = 21 * (480 // 16) * (832 // 16)
    made.insert(4, Shape("Wan 81 frames of 832x480", clip, clip, 12, 128))
    made.insert(7, Shape("Wan 81 frames of 832x480, text", clip, 512, 12, 128))
    return made


TINY = [Shape("tiny", 40, 40, 2, 16), Shape("tiny, text", 40, 7, 2, 16)]


def jobs(clock: Clock, *, tiny: bool) -> list[Job]:
    """One row for each shape."""
    return [
        Job("attention", shape.name, functools.partial(_measure, clock, shape))
        for shape in (TINY if tiny else shapes())
    ]


def _measure(clock: Clock, shape: Shape, row: Row) -> None:
    """Raises `ValueError` if the kernel's result is not torch's: nothing is timed then."""
    _, n_queries, n_keys, n_heads, size = shape
    n_bytes = 2 * 2 * (n_queries + n_keys) * n_heads * size
    row.n_flop, row.n_bytes = 4.0 * n_queries * n_keys * n_heads * size, n_bytes
    draw = functools.partial(torch.randn, dtype=torch.bfloat16, device=clock.device)
    inputs = [
        (draw(1, n_queries, n_heads, size), *(draw(1, n_keys, n_heads, size) for _ in range(2)))
        for _ in range(clock.n_sets(n_bytes))
    ]
    ours = _tuned(clock, inputs[0])
    expected, made = _torchs(inputs[0]), ours(inputs[0])
    apart = float((made.double() - expected.double()).norm() / expected.double().norm())
    if not apart <= MOST_DIFFERENT:
        raise ValueError(f"the result differs from torch's by {apart:.1e}")
    row.quality, row.quality_unit = {"kernel": apart}, "relative difference to torch's default"
    variants: dict[str, Run] = {"torch": _torchs, "kernel": ours}
    for name, backend in _BACKENDS.items():
        if name != "math" or 4 * n_queries * n_keys * n_heads <= _MATH_BYTES:
            variants[name] = functools.partial(_by_backend, backend)
    clock.measure(row, variants, inputs)


def _tuned(clock: Clock, given: tuple[torch.Tensor, ...]) -> Callable[[Any], torch.Tensor]:
    """The kernel with the settings that a worker would find at its start."""
    switch = Switch("triton", torch.device(clock.device))
    with switch.recording():
        Attend(switch)(given[0], given[1], given[2])
    if clock.device == "cuda":
        tune(switch, _TUNE_S)
    settings = next(iter(switch.chosen.values()), Choice("triton")).settings or None
    return lambda inputs: attention(*inputs, settings=settings)


def _torchs(given: tuple[torch.Tensor, ...]) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in given)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _by_backend(backend: SDPBackend, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with sdpa_kernel(backend):
        return _torchs(given)
