"""GroupNorm, with SiLU or without, in two passes over a channels-last picture.

Pass one gives each channel of each chunk of pixels its mean and its sum of squared deviations. A small step
between merges them into a centre and a gain per channel, pass two applies these. Merging deviations is exact
where a sum of squares would cancel: with values around 1000 and a spread of 1, E[x^2] - E[x]^2 in float32 has
no correct digit left. Source for the merge: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm
for computing sample variances" (1979).

Both passes read blocks of pixels times up to 128 neighbouring channels, so that 16-bit loads are whole lines
of 256 bytes whatever the groups are: a group has 4 to 16 channels in real decoders, and a program for each
group would use 8 to 32 bytes of every line. This is why the statistics are kept by channel and the groups
appear in the small step only. A shift per channel (the bias of the convolution before) moves a channel's mean
and leaves its deviations, so it is taken in there as well and costs nothing.

Chunks depend on the picture's size alone: a picture has the same bits whatever else is in the batch.

Cost: x is read twice and written once. Shapes: B pictures, P pixels (H x W), C channels, G groups, D = C / G.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK_CHANNELS = 128
_BLOCK_ELEMENTS = 8192
_MAX_CHUNKS = 1024


@triton.jit
def _chunk_statistics(
    x,
    partial,
    n_pixels,
    n_chunks,
    chunk_pixels,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """partial [B, n_chunks, 2, C] float32: mean and sum of squared deviations of each channel of a chunk."""
    chunk = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    picture = tl.program_id(2).to(tl.int64)
    held = channels < C
    first = chunk * chunk_pixels
    n_here = tl.minimum(n_pixels - first, chunk_pixels)
    block = x + (picture * n_pixels + first) * C
    mean = tl.zeros([BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, n_here, BLOCK_P):
        rows = start + tl.arange(0, BLOCK_P)
        mask = (rows < n_here)[:, None] & held[None, :]
        values = tl.load(block + rows[:, None] * C + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        count = tl.minimum(n_here - start, BLOCK_P).to(tl.float32)
        block_mean = tl.sum(values, axis=0) / count
        deviation = tl.where(mask, values - block_mean[None, :], 0.0)
        between = block_mean - mean
        share = count / (start + count)
        mean += between * share
        squares += tl.sum(deviation * deviation, axis=0) + between * between * (start * share)
    slot = partial + (picture * n_chunks + chunk) * 2 * C + channels
    tl.store(slot, mean, mask=held)
    tl.store(slot + C, squares, mask=held)


@triton.jit
def _merge(
    partial,
    table,
    weight,
    shift,
    n_pixels,
    n_chunks,
    chunk_pixels,
    total,
    eps,
    C: tl.constexpr,
    D: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """table [B, 2, C] float32: what to take from each channel of x, and what to multiply it with.

    `total`: P x D as a float.
    """
    group = tl.program_id(0)
    picture = tl.program_id(1).to(tl.int64)
    depth = tl.arange(0, BLOCK_D)
    held = depth < D
    channels = group * D + depth
    moved = tl.zeros([BLOCK_D], tl.float32)
    if HAS_SHIFT:
        moved = tl.load(shift + channels, mask=held, other=0.0).to(tl.float32)
    chunks = partial + picture * n_chunks * 2 * C
    # weighed sums are of differences to one of the means: of a large offset they would lose digits
    pivot = tl.load(chunks + group * D)
    means = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, n_chunks, BLOCK_N):
        numbers = start + tl.arange(0, BLOCK_N)
        present = (numbers < n_chunks)[:, None] & held[None, :]
        counts = tl.minimum(n_pixels - numbers * chunk_pixels, chunk_pixels).to(tl.float32)
        slots = chunks + numbers[:, None] * 2 * C + channels[None, :]
        mean = tl.load(slots, mask=present, other=0.0) + moved[None, :] - pivot
        means += tl.where(present, mean * (counts / total)[:, None], 0.0)
    centre = pivot + tl.sum(means)
    squares = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, n_chunks, BLOCK_N):
        numbers = start + tl.arange(0, BLOCK_N)
        present = (numbers < n_chunks)[:, None] & held[None, :]
        counts = tl.minimum(n_pixels - numbers * chunk_pixels, chunk_pixels).to(tl.float32)
        slots = chunks + numbers[:, None] * 2 * C + channels[None, :]
        between = tl.load(slots, mask=present, other=0.0) + moved[None, :] - centre
        inside = tl.load(slots + C, mask=present, other=0.0)
        squares += tl.where(present, inside + between * between * counts[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(squares) / total + eps)
    gain = tl.load(weight + channels, mask=held, other=0.0).to(tl.float32) * scale
    slot = table + picture * 2 * C + channels
    tl.store(slot, centre - moved, mask=held)
    tl.store(slot + C, gain, mask=held)


@triton.jit
def _normalise(
    x,
    out,
    table,
    bias,
    n_pixels,
    C: tl.constexpr,
    ACTIVATE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # from the end: what pass one read last may still be in the cache
    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_P
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    picture = tl.program_id(2).to(tl.int64)
    held = channels < C
    slot = table + picture * 2 * C + channels
    centre = tl.load(slot, mask=held, other=0.0)
    gain = tl.load(slot + C, mask=held, other=0.0)
    added = tl.load(bias + channels, mask=held, other=0.0).to(tl.float32)
    rows = tl.arange(0, BLOCK_P)
    mask = (first + rows < n_pixels)[:, None] & held[None, :]
    start = (picture * n_pixels + first) * C
    offsets = rows[:, None] * C + channels[None, :]
    values = tl.load(x + start + offsets, mask=mask, other=0.0).to(tl.float32)
    normed = (values - centre[None, :]) * gain[None, :] + added[None, :]
    if ACTIVATE:
        normed = normed * tl.sigmoid(normed)
    tl.store(out + start + offsets, normed.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op(
    "triptych::group_norm_silu",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, int n_groups, float eps, bool activate=True,"
    " Tensor? shift=None) -> Tensor",
)
def group_norm_silu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    n_groups: int,
    eps: float,
    activate: bool = True,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """silu(group_norm(x + shift)) of a channels-last x [B, C, ...], or without the silu; the rest [C].

    Raises ValueError if x is not dense channels-last, C no multiple of `n_groups` or a vector has gaps.
    """
    n_pictures, n_channels = x.shape[:2]
    if not x.movedim(1, -1).is_contiguous():
        raise ValueError("group_norm_silu takes a dense channels-last tensor")
    if n_channels % n_groups:
        raise ValueError(f"{n_channels} channels do not divide into {n_groups} groups")
    if not all(vector is None or vector.is_contiguous() for vector in (weight, bias, shift)):
        raise ValueError("group_norm_silu takes dense vectors")
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    n_pixels, depth = x[0, 0].numel(), n_channels // n_groups
    block_c = min(_BLOCK_CHANNELS, triton.next_power_of_2(n_channels))
    block_p = _BLOCK_ELEMENTS // block_c
    chunk_pixels = block_p * triton.cdiv(n_pixels, block_p * _MAX_CHUNKS)
    n_chunks = triton.cdiv(n_pixels, chunk_pixels)
    n_slices = triton.cdiv(n_channels, block_c)
    partial = torch.empty(n_pictures, n_chunks, 2, n_channels, dtype=torch.float32, device=x.device)
    table = torch.empty(n_pictures, 2, n_channels, dtype=torch.float32, device=x.device)
    _chunk_statistics[(n_chunks, n_slices, n_pictures)](
        x, partial, n_pixels, n_chunks, chunk_pixels, C=n_channels, BLOCK_P=block_p, BLOCK_C=block_c
    )
    block_d = triton.next_power_of_2(depth)
    _merge[(n_groups, n_pictures)](
        partial,
        table,
        weight,
        shift,
        n_pixels,
        n_chunks,
        chunk_pixels,
        float(n_pixels * depth),
        eps,
        C=n_channels,
        D=depth,
        HAS_SHIFT=shift is not None,
        BLOCK_N=max(1, min(triton.next_power_of_2(n_chunks), 2048 // block_d)),
        BLOCK_D=block_d,
    )
    _normalise[(triton.cdiv(n_pixels, block_p), n_slices, n_pictures)](
        x, out, table, bias, n_pixels, C=n_channels, ACTIVATE=activate, BLOCK_P=block_p, BLOCK_C=block_c
    )
    return out


@group_norm_silu.register_fake
def _shape_of(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    n_groups: int,
    eps: float,
    activate: bool = True,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    return torch.empty_like(x)
