"""The small ops against float64: odd sizes, strides, single rows, large values, poisoned outputs.

Tolerances, relative above 1 and absolute below: float32 differs from float64 by the rounding of sums of some
thousand terms; float16 and bfloat16 by the rounding of the result, half a unit in the last place, and by
that of the float32 before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kernels.bias_residual import bias_residual_, bias_residual_reference_
from kernels.channels_last import channels_last
from kernels.gated_residual import gated_residual, gated_residual_reference
from kernels.group_norm_silu import group_norm_silu, group_norm_silu_reference, kernel
from kernels.layer_norm_scale_shift import layer_norm_scale_shift, layer_norm_scale_shift_reference
from kernels.qk_norm_rope import qk_norm_rope, qk_norm_rope_reference
from kernels.rms_norm_silu import rms_norm_silu, rms_norm_silu_reference
from kernels.upsample_conv import fold, upsample_conv, upsample_conv_reference

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}


class Draws:
    """Random tensors on a device, the same every time."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32, offset: float = 0.0) -> torch.Tensor:
        drawn = torch.randn(*shape, generator=self._generator) + offset
        return drawn.to(self._device, dtype)


@contextmanager
def poisoned() -> Iterator[None]:
    """Everything that is made empty is full of NaN."""
    empty, empty_like = torch.empty, torch.empty_like
    torch.empty = lambda *a, **k: empty(*a, **k).fill_(float("nan"))
    torch.empty_like = lambda *a, **k: empty_like(*a, **k).fill_(float("nan"))
    try:
        yield
    finally:
        torch.empty, torch.empty_like = empty, empty_like


def assert_close(out: torch.Tensor, exact: torch.Tensor, allowed: float, *told: Any) -> None:
    """Written so that NaN fails."""
    error = ((out.double() - exact).abs() / exact.abs().clamp(min=1)).max().item()
    assert error <= allowed, (error, allowed, *told)


def group_norm(device: str) -> None:
    draw = Draws(device)
    shapes = [(1, 4, 1, 2, 4), (2, 12, 7, 9, 4), (1, 60, 25, 20, 6), (1, 160, 3, 21, 5), (1, 32, 20, 25, 32)]
    for n, c, h, w, groups in shapes:
        for dtype, tolerance in TOLERANCE.items():
            for offset in (0.0, 1000.0) if dtype is torch.float32 else (0.0,):
                for activate, shifted in ((True, False), (False, True)):
                    x = channels_last(draw(n, c, h, w, dtype=dtype, offset=offset))
                    weight, bias = draw(c, dtype=dtype), draw(c, dtype=dtype)
                    shift = draw(c, dtype=dtype) if shifted else None
                    arguments = (weight, bias, groups, 1e-6, activate, shift)
                    exact = group_norm_silu_reference(x.double(), *arguments)
                    # one unit of the input's own rounding is what an offset leaves uncertain
                    allowed = tolerance + offset * torch.finfo(torch.float32).eps * 8
                    for op in (group_norm_silu, group_norm_silu_reference):
                        with poisoned():
                            out = op(x, *arguments)
                        assert (out.dtype, out.stride()) == (dtype, x.stride())
                        assert_close(out, exact, allowed, op, n, c, h, w, dtype, offset, shifted)


def group_norm_is_torchs(device: str) -> None:
    """The reference is what torch computes, in float64; the mid-block's attention has three dimensions."""
    draw = Draws(device)
    x, weight, bias = draw(2, 12, 35).double(), draw(12).double(), draw(12).double()
    expected = torch.nn.functional.silu(torch.nn.functional.group_norm(x, 4, weight, bias, 1e-6))
    assert_close(group_norm_silu_reference(x, weight, bias, 4, 1e-6), expected, 1e-12)
    narrow = [tensor.float() for tensor in (channels_last(x), weight, bias)]
    assert_close(group_norm_silu(*narrow, 4, 1e-6), expected, 2e-5)


def group_norm_of_each_picture(device: str) -> None:
    """A picture has the same bits whatever else is in the batch."""
    draw = Draws(device)
    x, weight, bias = channels_last(draw(3, 24, 9, 33)), draw(24), draw(24)
    together = group_norm_silu(x, weight, bias, 6, 1e-6)
    alone = [group_norm_silu(one, weight, bias, 6, 1e-6) for one in x.chunk(3)]
    assert torch.equal(together, torch.cat(alone))


def group_norm_over_many_chunks(device: str) -> None:
    """Chunks of several blocks each, the last one short, and a mean that wanders over the picture."""
    draw = Draws(device)
    x = channels_last(draw(1, 128, 1, 1000) + torch.linspace(0, 1000, 1000, device=device))
    weight, bias = draw(128), draw(128)
    exact = group_norm_silu_reference(x.double(), weight, bias, 32, 1e-6)
    usual, kernel._MAX_CHUNKS = kernel._MAX_CHUNKS, 4
    try:
        assert_close(group_norm_silu(x, weight, bias, 32, 1e-6), exact, 2e-5)
    finally:
        kernel._MAX_CHUNKS = usual


def rms_norm(device: str) -> None:
    draw = Draws(device)
    for shape in ((1, 3, 1, 1), (2, 96, 3, 5, 7), (1, 60, 63, 2), (1, 384, 1, 2, 3)):
        for dtype, tolerance in TOLERANCE.items():
            for activate in (True, False):
                x, weight = channels_last(draw(*shape, dtype=dtype) * 300), draw(shape[1], dtype=dtype)
                exact = rms_norm_silu_reference(x.double(), weight, activate)
                for op in (rms_norm_silu, rms_norm_silu_reference):
                    with poisoned():
                        out = op(x, weight, activate)
                    assert (out.dtype, out.stride()) == (dtype, x.stride())
                    assert_close(out, exact, tolerance, op, shape, dtype)
    nothing = channels_last(torch.zeros(1, 6, 2, 2, device=device))
    assert_close(rms_norm_silu(nothing, draw(6)), nothing.double(), 0.0)


def residual_with_bias(device: str) -> None:
    draw = Draws(device)
    for shape in ((1, 3, 1, 1), (2, 60, 63, 5), (1, 160, 2, 3, 7)):
        for dtype, tolerance in TOLERANCE.items():
            x, kept = (channels_last(draw(*shape, dtype=dtype) * 100) for _ in range(2))
            bias = draw(shape[1], dtype=dtype)
            exact = x.double()
            bias_residual_reference_(exact, kept.double(), bias)
            for op in (bias_residual_, bias_residual_reference_):
                out = channels_last(x.clone())
                op(out, kept, bias)
                assert_close(out, exact, tolerance, op, shape, dtype)


def upsampling(device: str) -> None:
    """Borders too: both read zeros outside."""
    draw = Draws(device)
    for n, c, o, h, w in ((1, 3, 5, 1, 1), (2, 4, 3, 5, 7), (1, 16, 16, 9, 1)):
        x, weight, bias = draw(n, c, h, w).double(), draw(o, c, 3, 3).double(), draw(o).double()
        exact = upsample_conv_reference(x, weight, bias)
        assert exact.shape == (n, o, 2 * h, 2 * w)
        assert_close(upsample_conv(x, fold(weight), bias), exact, 1e-12)
        # sums of taps are rounded once more than the taps are
        narrow = upsample_conv(x.float(), fold(weight.float()), bias.float())
        assert_close(narrow, exact, 2e-5 if device == "cpu" else 2e-2)


def folding_is_done_wide(device: str) -> None:
    """Of taps that cancel but for one of the last bits, nothing is lost before the sum is made."""
    weight = torch.zeros(1, 1, 3, 3, device=device)
    weight[0, 0, 1, 1], weight[0, 0, 2, 1] = 1.0, 2.0**-7
    folded = fold(weight.to(torch.bfloat16))
    assert folded.dtype == torch.bfloat16
    assert folded.max().item() == 1 + 2.0**-7
    assert folded.shape == (1, 1, 4, 4)


def layer_norm(device: str) -> None:
    draw = Draws(device)
    for n, t, c in ((1, 1, 4), (2, 63, 100), (3, 2, 1536)):
        for dtype, tolerance in TOLERANCE.items():
            # as the models have them: tokens cut out of a longer sequence, vectors out of one projection
            x = (draw(n, t + 3, c, dtype=dtype, offset=20.0))[:, 3:]
            scale, shift = draw(n, 3 * c, dtype=dtype).chunk(3, dim=1)[1:]
            exact = layer_norm_scale_shift_reference(x.double(), scale, shift, 1e-6)
            for op in (layer_norm_scale_shift, layer_norm_scale_shift_reference):
                with poisoned():
                    out = op(x, scale, shift, 1e-6)
                assert out.dtype == dtype
                assert_close(out, exact, tolerance, op, n, t, c, dtype)


def gated(device: str) -> None:
    draw = Draws(device)
    for n, t, c in ((1, 1, 3), (2, 63, 100), (2, 5, 1500)):
        for dtype, tolerance in TOLERANCE.items():
            kept, x = draw(n, t + 2, c, dtype=dtype)[:, 2:], draw(n, t, 2 * c, dtype=dtype)[..., :c]
            gate = draw(n, 6 * c, dtype=dtype).chunk(6, dim=1)[2]
            exact = gated_residual_reference(kept.double(), x, gate)
            for op in (gated_residual, gated_residual_reference):
                with poisoned():
                    out = op(kept, x, gate)
                assert_close(out, exact, tolerance, op, n, t, c, dtype)


def rotation(device: str) -> None:
    draw = Draws(device)
    for n, t, h, d in ((1, 1, 1, 2), (2, 7, 3, 60), (1, 5, 24, 128)):
        for dtype, tolerance in TOLERANCE.items():
            x = draw(n, t, 3 * h * d, dtype=dtype).reshape(n, t, 3, h, d)[:, :, 1] * 30
            weight, angles = draw(d, dtype=dtype), draw(t, d)
            tables = angles.cos(), angles.sin()
            exact = qk_norm_rope_reference(x.double(), weight, *tables, 1e-6)
            for op in (qk_norm_rope, qk_norm_rope_reference):
                with poisoned():
                    out = op(x, weight, *tables, 1e-6)
                assert_close(out, exact, tolerance, op, n, t, h, d, dtype)


def registered(device: str) -> None:
    """Each op keeps to its schema, and its shapes are known without computing it."""
    draw = Draws(device)
    x, vector = channels_last(draw(2, 8, 3, 5)), draw(8)
    tokens, vectors = draw(2, 5, 8), draw(2, 8)
    heads, table = draw(2, 5, 3, 8), draw(5, 8)
    calls: list[tuple[Any, tuple[Any, ...]]] = [
        (group_norm_silu, (x, vector, vector, 4, 1e-6, True, vector)),
        (rms_norm_silu, (x, vector)),
        (bias_residual_, (x, channels_last(draw(2, 8, 3, 5)), vector)),
        (layer_norm_scale_shift, (tokens, vectors, vectors, 1e-6)),
        (gated_residual, (tokens, tokens.clone(), vectors)),
        (qk_norm_rope, (heads, vector, table, table.clone(), 1e-6)),
    ]
    for op, arguments in calls:
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check
    for check in (
        group_norm,
        group_norm_is_torchs,
        group_norm_of_each_picture,
        group_norm_over_many_chunks,
        rms_norm,
        residual_with_bias,
        upsampling,
        folding_is_done_wide,
        layer_norm,
        gated,
        rotation,
        registered,
    )
}
