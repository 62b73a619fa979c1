"""The small ops at the largest shapes of Flux at 1024 px, against eager torch and against what is compiled of
it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bench.kernels.clock import Clock, Run
from bench.kernels.rows import Job, Row
from kernels.bias_residual import bias_residual_
from kernels.channels_last import channels_last
from kernels.gated_residual import gated_residual
from kernels.group_norm_silu import group_norm_silu
from kernels.layer_norm_scale_shift import layer_norm_scale_shift
from kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_reference
from kernels.rms_norm_silu import rms_norm_silu, rms_norm_silu_reference
from kernels.upsample_conv import fold, upsample_conv, upsample_conv_reference

MOST_DIFFERENT = 1e-2
"""Of ||a - b|| / ||b||, two results in bfloat16."""


class Op(NamedTuple):
    """`make` draws arguments; `n_passes`: readings and writings of the first of them."""

    kernel: Callable[..., Any]
    plain: Callable[..., Any]
    make: Callable[[Callable[..., torch.Tensor]], tuple[Any, ...]]
    n_passes: float
    n_flop: float = 0.0


def ops(c: int, side: int, t: int, h: int, d: int) -> dict[str, Op]:
    """By name. c x side x side: a picture in the decoder; t tokens of h heads of d in the denoiser."""
    picture = (1, c, side, side)
    silu = torch.nn.functional.silu

    def group_norm_torch(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, n: int, eps: float
    ) -> Any:
        return silu(torch.nn.functional.group_norm(x, n, weight, bias, eps))

    def layer_norm_torch(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float) -> Any:
        normed = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)
        return normed * (1 + scale[:, None]) + shift[:, None]

    return {
        "group norm + SiLU": Op(
            group_norm_silu,
            group_norm_torch,
            lambda draw: (channels_last(draw(*picture)), draw(c), draw(c), c // 4, 1e-6),
            3,
        ),
        "upsampling + convolution": Op(
            lambda x, weight, folded: upsample_conv(x, folded),
            lambda x, weight, folded: upsample_conv_reference(x, weight),
            lambda draw: _convolution(draw, 2 * c, side // 2),
            5,
            2.0 * 16 * (2 * c) ** 2 * (side // 2) ** 2,
        ),
        "bias + residual": Op(
            _in_place(bias_residual_),
            lambda x, kept, bias: x + bias[:, None, None] + kept,
            lambda draw: (channels_last(draw(*picture)), channels_last(draw(*picture)), draw(c)),
            3,
        ),
        "channel norm + SiLU": Op(
            rms_norm_silu,
            rms_norm_silu_reference,
            lambda draw: (channels_last(draw(1, 96, 1, side, side)), draw(96)),
            2,
        ),
        "layer norm + scale + shift": Op(
            layer_norm_scale_shift,
            layer_norm_torch,
            lambda draw: (draw(1, t, h * d), draw(1, h * d), draw(1, h * d), 1e-6),
            2,
        ),
        "QK norm + rotation": Op(
            qk_norm_rope,
            qk_norm_rope_reference,
            lambda draw: (draw(1, t, h, d), draw(d), draw(t, d).float(), draw(t, d).float(), 1e-6),
            2,
        ),
        "gated residual": Op(
            gated_residual,
            lambda kept, x, gate: kept + gate[:, None] * x,
            lambda draw: (draw(1, t, h * d), draw(1, t, h * d), draw(1, h * d)),
            3,
        ),
    }


def jobs(clock: Clock, *, tiny: bool) -> list[Job]:
    """One row for each op."""
    made = ops(8, 8, 6, 2, 8) if tiny else ops(128, 1024, 4608, 24, 128)
    return [Job("ops", name, functools.partial(_measure, clock, op)) for name, op in made.items()]


def _measure(clock: Clock, op: Op, row: Row) -> None:
    """Raises `ValueError` if the kernel's result is not torch's: nothing is timed then."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16, device=clock.device)

    first = op.make(draw)
    row.n_bytes = op.n_passes * first[0].numel() * first[0].element_size()
    row.n_flop = op.n_flop
    expected, made = op.plain(*first), op.kernel(*first)
    apart = float((made.double() - expected.double()).norm() / expected.double().norm())
    if not apart <= MOST_DIFFERENT:
        raise ValueError(f"the result differs from torch's by {apart:.1e}")
    row.quality, row.quality_unit = {"kernel": apart}, "relative difference to torch's"
    inputs = [first, *(op.make(draw) for _ in range(clock.n_sets(int(row.n_bytes)) - 1))]
    variants: dict[str, Run] = {
        "torch": lambda given: op.plain(*given),
        "kernel": lambda given: op.kernel(*given),
    }
    if clock.device == "cuda":
        compiled = torch.compile(op.plain)
        variants["compiled"] = lambda given: compiled(*given)
    clock.measure(row, variants, inputs)


def _in_place(op: Callable[..., None]) -> Callable[..., torch.Tensor]:
    def run(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        op(x, *rest)
        return x

    return run


def _convolution(draw: Callable[..., torch.Tensor], c: int, side: int) -> tuple[torch.Tensor, ...]:
    weight = draw(c, c, 3, 3).contiguous(memory_format=torch.channels_last)
    return channels_last(draw(1, c, side, side)), weight, fold(weight)
