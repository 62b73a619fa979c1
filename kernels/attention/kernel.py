"""Attention in one pass over the keys, with a running maximum and sum per query.

One program has a tile of queries of one head and goes over the keys block by block; nothing of size Tq x Tk
is ever in memory. Scores and sums are float32. Exponentials are of base 2, which the hardware has, so the
scale is multiplied by log2(e). Blocks of keys that are whole are taken without any test; at most one is not.
Source: Dao, "FlashAttention-2" (2023), for the order of the loops; Milakov and Gimelshein, "Online normalizer
calculation for softmax" (2018), for the running maximum.

Heads that are no power of two are held in two widths, 80 as 64 + 16, which padding to 128 would nearly
double.

No key is shared out between programs (no split over keys): the order in which a query's sum is made depends
on the number of keys and on `Settings` alone. So a row's bits do not depend on the batch around it, which is
what the promise of equal pictures rests on. The price: a handful of queries over very many keys leaves most
of the device idle, which no served model does.

Cost: reads q once and k and v once per tile of queries, mostly from cache; 4 Tq Tk D operations a head.
Shapes: B sequences, Tq queries, Tk keys, H heads of size D; H is a multiple of Hk, the heads of k and v.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention.limits import refusal
from kernels.attention.settings import Settings, head_blocks, settings_for

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2.0)


@triton.jit
def _block(
    source,
    row,
    head,
    start,
    end,
    stride_t,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    EDGE: tl.constexpr,
):
    """[ROWS, WIDTH] of one head from token `start` and column FIRST on; zeros beyond `end` and D.

    `source` is a descriptor of [B, T, H, D], or a pointer to the head's first token.
    """
    if DESCRIPTORS:
        values = source.load([row, start, head, FIRST]).reshape(ROWS, WIDTH)
    else:
        tokens = tl.arange(0, ROWS)
        columns = FIRST + tl.arange(0, WIDTH)
        # the far part of the offset is one number; those within the block fit into 32 bits
        pointers = (
            source + tl.cast(start, tl.int64) * stride_t + tokens[:, None] * stride_t + columns[None, :]
        )
        inside = (columns < D)[None, :]
        if EDGE:
            values = tl.load(pointers, mask=inside & (start + tokens < end)[:, None], other=0.0)
        elif FIRST + WIDTH > D:
            values = tl.load(pointers, mask=inside, other=0.0)
        else:
            values = tl.load(pointers)
    return values


@triton.jit
def _product(a, b, acc, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _step(
    acc_0,
    acc_1,
    top,
    total,
    q_0,
    q_1,
    k_0,
    k_1,
    v_0,
    v_1,
    mask,
    row,
    head,
    start,
    n_queries,
    n_keys,
    queries,
    scale,
    stride_kt,
    stride_vt,
    stride_mq,
    stride_mk,
    D: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    BLOCK_K: tl.constexpr,
    MASK: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    EDGE: tl.constexpr,
):
    """One block of keys folded into the accumulators; `top` and the scores are in units of log2."""
    keys = _block(k_0, row, head, start, n_keys, stride_kt, 0, WIDTH_0, D, BLOCK_K, DESCRIPTORS, EDGE)
    scores = tl.zeros([q_0.shape[0], BLOCK_K], tl.float32)
    scores = _product(q_0, keys.trans(), scores, PRECISION, WIDEN)
    if WIDTH_1 > 0:
        more = _block(
            k_1, row, head, start, n_keys, stride_kt, WIDTH_0, WIDTH_1, D, BLOCK_K, DESCRIPTORS, EDGE
        )
        scores = _product(q_1, more.trans(), scores, PRECISION, WIDEN)

    columns = start + tl.arange(0, BLOCK_K)
    if MASK == "none":
        if EDGE:
            scores = tl.where((columns < n_keys)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - new_top[:, None])
        kept = tl.exp2(top - new_top)
    else:
        there = (columns < n_keys)[None, :]
        pointers = mask + tl.cast(start, tl.int64) * stride_mk + tl.arange(0, BLOCK_K)[None, :] * stride_mk
        if MASK_ROWS:
            pointers += tl.arange(0, queries.shape[0])[:, None] * stride_mq
            there = there & (queries < n_queries)[:, None]
        if MASK == "bool":
            seen = tl.load(pointers, mask=there, other=0) != 0
            scores = tl.where(seen, scores * scale, float("-inf"))
        else:
            added = tl.load(pointers, mask=there, other=float("-inf")).to(tl.float32)
            scores = scores * scale + added * 1.4426950408889634
        new_top = tl.maximum(top, tl.max(scores, 1))
        # a query that has seen no key yet has no maximum, and -inf minus -inf is none
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - base[:, None])
        kept = tl.exp2(top - base)
    total = total * kept + tl.sum(weights, 1)

    values = _block(v_0, row, head, start, n_keys, stride_vt, 0, WIDTH_0, D, BLOCK_K, DESCRIPTORS, EDGE)
    narrow = weights.to(values.dtype)
    acc_0 = _product(narrow, values, acc_0 * kept[:, None], PRECISION, WIDEN)
    if WIDTH_1 > 0:
        rest = _block(
            v_1, row, head, start, n_keys, stride_vt, WIDTH_0, WIDTH_1, D, BLOCK_K, DESCRIPTORS, EDGE
        )
        acc_1 = _product(narrow, rest, acc_1 * kept[:, None], PRECISION, WIDEN)
    return acc_0, acc_1, new_top, total


@triton.jit
def _attend(
    q,
    k_0,
    k_1,
    v_0,
    v_1,
    mask,
    out,
    lse,
    n_tiles,
    n_queries,
    n_keys,
    n_heads,
    n_sharing,
    scale,
    stride_qb,
    stride_qt,
    stride_qh,
    stride_kb,
    stride_kt,
    stride_kh,
    stride_vb,
    stride_vt,
    stride_vh,
    stride_mb,
    stride_mh,
    stride_mq,
    stride_mk,
    D: tl.constexpr,
    WIDTH_0: tl.constexpr,
    WIDTH_1: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    MASK: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    LSE: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    SPECIALISED: tl.constexpr,
    PERSISTENT: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One tile per program, or every so many-th where there are fewer programs than tiles.

    Tiles of one head are neighbours, so that its keys and values stay in the cache.
    """
    n_blocks = tl.cdiv(n_queries, BLOCK_Q)
    first = tl.program_id(0)
    # one round that the compiler can see to be one costs no registers
    for number in range(first, n_tiles if PERSISTENT else first + 1, tl.num_programs(0) if PERSISTENT else 1):
        queries = (number % n_blocks) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        head = (number // n_blocks) % n_heads
        row = number // (n_blocks * n_heads)
        shared = head // n_sharing
        far_row, far_head, far_shared = row.to(tl.int64), head.to(tl.int64), shared.to(tl.int64)

        lines = queries.to(tl.int64)[:, None]
        columns_0 = tl.arange(0, WIDTH_0)
        here = (queries < n_queries)[:, None]
        own = q + far_row * stride_qb + far_head * stride_qh + lines * stride_qt
        q_0 = tl.load(own + columns_0[None, :], mask=here & (columns_0 < D)[None, :], other=0.0)
        q_1 = q_0
        acc_0 = tl.zeros([BLOCK_Q, WIDTH_0], tl.float32)
        acc_1 = acc_0
        if WIDTH_1 > 0:
            columns_1 = WIDTH_0 + tl.arange(0, WIDTH_1)
            q_1 = tl.load(own + columns_1[None, :], mask=here & (columns_1 < D)[None, :], other=0.0)
            acc_1 = tl.zeros([BLOCK_Q, WIDTH_1], tl.float32)
        top = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)

        keys_0, keys_1, values_0, values_1, masked = k_0, k_1, v_0, v_1, mask
        if not DESCRIPTORS:
            keys_0 = k_0 + far_row * stride_kb + far_shared * stride_kh
            values_0 = v_0 + far_row * stride_vb + far_shared * stride_vh
            keys_1, values_1 = keys_0, values_0
        if MASK != "none":
            first_query = tl.cast((number % n_blocks) * BLOCK_Q, tl.int64)
            masked = mask + far_row * stride_mb + far_head * stride_mh + first_query * stride_mq

        whole = n_keys // BLOCK_K * BLOCK_K
        for start in tl.range(0, whole, BLOCK_K, warp_specialize=SPECIALISED):
            acc_0, acc_1, top, total = _step(
                acc_0, acc_1, top, total, q_0, q_1, keys_0, keys_1, values_0, values_1, masked,
                row, shared, start, n_queries, n_keys, queries, scale, stride_kt, stride_vt, stride_mq,
                stride_mk, D, WIDTH_0, WIDTH_1, BLOCK_K, MASK, MASK_ROWS, DESCRIPTORS, PRECISION, WIDEN,
                False,
            )  # fmt: skip
        if whole < n_keys:
            acc_0, acc_1, top, total = _step(
                acc_0, acc_1, top, total, q_0, q_1, keys_0, keys_1, values_0, values_1, masked,
                row, shared, whole, n_queries, n_keys, queries, scale, stride_kt, stride_vt, stride_mq,
                stride_mk, D, WIDTH_0, WIDTH_1, BLOCK_K, MASK, MASK_ROWS, DESCRIPTORS, PRECISION, WIDEN,
                True,
            )  # fmt: skip

        total = tl.where(total == 0.0, 1.0, total)
        share = 1.0 / total
        placed = out + ((far_row * n_queries + lines) * n_heads + far_head) * D
        ended_0 = (acc_0 * share[:, None]).to(out.dtype.element_ty)
        tl.store(placed + columns_0[None, :], ended_0, mask=here & (columns_0 < D)[None, :])
        if WIDTH_1 > 0:
            ended_1 = (acc_1 * share[:, None]).to(out.dtype.element_ty)
            last = WIDTH_0 + tl.arange(0, WIDTH_1)
            tl.store(placed + last[None, :], ended_1, mask=here & (last < D)[None, :])
        if LSE:
            sums = (top + tl.log2(total)) * 0.6931471805599453
            tl.store(
                lse + (far_row * n_heads + far_head) * n_queries + queries, sums, mask=queries < n_queries
            )


@torch.library.custom_op("triptych::attention", mutates_args=())
def _attention_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    with_lse: bool,
    settings: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = Settings(*settings) if settings else _shipped(q, k)
    n_rows, n_queries, n_heads, head_size = q.shape
    n_keys, n_shared_heads = k.shape[1], k.shape[2]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(
        (n_rows, n_heads, n_queries) if with_lse else (0,), dtype=torch.float32, device=q.device
    )
    widths = head_blocks(head_size)
    by_engine = bool(chosen.descriptors) and _can_be_described(k) and _can_be_described(v)
    described = [
        _described(tensor, chosen.block_k, width) if by_engine else tensor
        for tensor in (k, v)
        for width in (widths[0], widths[1] or widths[0])
    ]
    kind, mask_strides = _mask_kind(q, k, mask)
    n_tiles = triton.cdiv(n_queries, chosen.block_q) * n_heads * n_rows
    _attend[(_n_programs(q.device, n_tiles) if chosen.persistent else n_tiles,)](
        q,
        *described,
        out if mask is None else mask.view(torch.uint8) if kind == "bool" else mask,
        out,
        lse,
        n_tiles,
        n_queries,
        n_keys,
        n_heads,
        n_heads // n_shared_heads,
        scale * _LOG2_E,
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *mask_strides,
        D=head_size,
        WIDTH_0=widths[0],
        WIDTH_1=widths[1],
        BLOCK_Q=chosen.block_q,
        BLOCK_K=chosen.block_k,
        MASK=kind,
        MASK_ROWS=mask_strides[2] != 0,
        LSE=with_lse,
        DESCRIPTORS=by_engine,
        SPECIALISED=bool(chosen.specialised),
        PERSISTENT=bool(chosen.persistent),
        # what torch calls tf32 would be ten bits of each factor
        PRECISION="ieee",
        # Triton's interpreter multiplies bfloat16 as if they were whole numbers
        WIDEN=not isinstance(_attend, triton.JITFunction) and q.dtype == torch.bfloat16,
        num_warps=chosen.warps,
        num_stages=chosen.stages,
    )
    return out, lse


@_attention_op.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    with_lse: bool,
    settings: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    sums = (q.shape[0], q.shape[2], q.shape[1]) if with_lse else (0,)
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), q.new_empty(sums, dtype=torch.float32)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    settings: Sequence[int] | None = None,
) -> torch.Tensor:
    """softmax(q kᵀ · scale + mask) v. q [B, Tq, H, D]; k, v [B, Tk, Hk, D]; last dimensions dense, else any
    strides.

    float16, bfloat16 or float32, scores and sums in float32. `mask` [B or 1, H or 1, Tq or 1, Tk], or [B,
    Tk]: True where a key is seen, or a float that is added to the scaled scores. `scale` is 1/√D where None;
    `settings` are the shipped ones where None. A query that sees no key gets zeros. Returns a dense [B, Tq,
    H, D]. Raises ValueError for what `limits.refusal` does not take.
    """
    return _run(q, k, v, mask, scale, False, settings)[0]


def attention_with_lse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    settings: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and [B, H, Tq] float32: the logarithm of each query's sum over e to its scores.

    -inf where a query sees no key. With these, results over parts of the keys can be put together.
    """
    return _run(q, k, v, mask, scale, True, settings)


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    with_lse: bool,
    settings: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if (reason := refusal(q, k, v, mask, scale)) is not None:
        raise ValueError(f"the attention kernel does not take this call: {reason}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    found: tuple[torch.Tensor, torch.Tensor] = _attention_op(
        q, k, v, mask, scale, with_lse, [] if settings is None else list(settings)
    )
    return found


def _mask_kind(
    q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None
) -> tuple[str, tuple[int, int, int, int]]:
    """What kind of mask, and its strides over B, H, Tq and Tk, 0 where one value is for all."""
    if mask is None:
        return "none", (0, 0, 0, 0)
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask
    full = mask.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    kind = "bool" if mask.dtype == torch.bool else "added"
    strides = full.stride()
    # one query needs no stride, whatever torch says it is
    return kind, (strides[0], strides[1], strides[2] if q.shape[1] > 1 else 0, strides[3])


def _can_be_described(tensor: torch.Tensor) -> bool:
    """Whether the copy engine can address it: 16-byte steps, and fewer than 2^31 tokens and heads."""
    n_bytes = tensor.element_size()
    return tensor.data_ptr() % 16 == 0 and all(
        stride > 0 and stride * n_bytes % 16 == 0 for stride in tensor.stride()[:3]
    )


def _described(tensor: torch.Tensor, rows: int, width: int) -> Any:
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, rows, 1, width])


@functools.cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _shipped(q: torch.Tensor, k: torch.Tensor) -> Settings:
    return settings_for(_device_name(q.device), q.dtype, q.shape[3], k.shape[1])


@functools.cache
def _n_processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    n: int = torch.cuda.get_device_properties(device).multi_processor_count
    return n


def _n_programs(device: torch.device, n_tiles: int) -> int:
    return min(n_tiles, _n_processors(device))
