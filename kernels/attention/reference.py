"""What the op computes, in plain torch. Shapes: B sequences, Tq queries, Tk keys, H heads of size D."""

from __future__ import annotations

import torch


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(q kᵀ · scale + mask) v, by torch's own attention. q [B, Tq, H, D]; k, v [B, Tk, Hk, D].

    H is a multiple of Hk: neighbouring heads of q share one of k and v. `mask` [B or 1, H or 1, Tq or 1,
    Tk], or [B, Tk]: True where a key is seen, or a float that is added to the scaled scores. `scale` is 1/√D
    where None. A query that sees no key gets zeros. Returns [B, Tq, H, D] of q's type.
    """
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    out = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def attention_with_lse_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, and [B, H, Tq] float32: the logarithm of each query's sum over e to its scores.

    Every score is in memory at once. -inf where a query sees no key.
    """
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :]
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.to(wide), keys.to(wide))
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    out = attention_reference(q, k, v, mask=mask, scale=scale)
    return out, scores.logsumexp(dim=-1).float()
