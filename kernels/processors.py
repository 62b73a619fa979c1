"""Attention modules of diffusers that call torch's attention themselves, with a given function in its place.

Each says what diffusers' class of the same purpose computes (0.42), in the order in which that does, and
differs in one thing: heads stay behind tokens, [B, T, H, D], as the projections leave them. B samples, T
tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

AttentionFunction = Callable[..., torch.Tensor]
"""(q, k, v, mask=None), [B, T, H, D] each."""


def _heads(attn: Any, projected: torch.Tensor) -> torch.Tensor:
    return projected.view(*projected.shape[:-1], attn.heads, -1)


def _normed(norm: Any, heads: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = heads if norm is None else norm(heads)
    return normed


def _out(attn: Any, hidden: torch.Tensor) -> torch.Tensor:
    """The projection of the result, and the dropout behind it, which does nothing in a served model."""
    for layer in attn.to_out:
        hidden = layer(hidden)
    return hidden


class JointAttention:
    """Picture and text attend to both (SD3), or the picture to itself (the second attention of SD3.5).

    In place of `JointAttnProcessor2_0`.
    """

    def __init__(self, attend: AttentionFunction) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Two results where there is a text. The mask is ignored, as diffusers ignores it."""
        n_own = hidden_states.shape[1]
        q = _normed(attn.norm_q, _heads(attn, attn.to_q(hidden_states)))
        k = _normed(attn.norm_k, _heads(attn, attn.to_k(hidden_states)))
        v = _heads(attn, attn.to_v(hidden_states))
        if encoder_hidden_states is None:
            return _out(attn, self._attend(q, k, v).flatten(2))
        text_q = _normed(attn.norm_added_q, _heads(attn, attn.add_q_proj(encoder_hidden_states)))
        text_k = _normed(attn.norm_added_k, _heads(attn, attn.add_k_proj(encoder_hidden_states)))
        text_v = _heads(attn, attn.add_v_proj(encoder_hidden_states))
        q, k, v = (torch.cat(each, dim=1) for each in ((q, text_q), (k, text_k), (v, text_v)))
        both = self._attend(q, k, v).flatten(2)
        text = both[:, n_own:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return _out(attn, both[:, :n_own]), text


class SelfOrCrossAttention:
    """Tokens to themselves or to a text (SDXL), or the places of a feature map to each other (AutoencoderKL).

    In place of `AttnProcessor2_0`.
    """

    def __init__(self, attend: AttentionFunction) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, T, C], or [B, C, height, width], of the same shape as it came."""
        before = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        is_map = hidden_states.ndim == 4
        if is_map:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        keys_of = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = _prepared(attn, attention_mask, keys_of)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            keys_of = hidden_states
        elif attn.norm_cross:
            keys_of = attn.norm_encoder_hidden_states(keys_of)
        q = _normed(attn.norm_q, _heads(attn, attn.to_q(hidden_states)))
        k = _normed(attn.norm_k, _heads(attn, attn.to_k(keys_of)))
        v = _heads(attn, attn.to_v(keys_of))
        hidden_states = _out(attn, self._attend(q, k, v, mask).flatten(2))
        if is_map:
            hidden_states = hidden_states.transpose(1, 2).reshape(before.shape)
        if attn.residual_connection:
            hidden_states = hidden_states + before
        scaled: torch.Tensor = hidden_states / attn.rescale_output_factor
        return scaled


class CogVideoXAttention:
    """Text and clip attend to both, as one sequence with the text first; only the clip has places.

    In place of `CogVideoXAttnProcessor2_0`.
    """

    def __init__(self, attend: AttentionFunction) -> None:
        self._attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clip and text."""
        from diffusers.models.embeddings import apply_rotary_emb

        n_text = encoder_hidden_states.shape[1]
        both = torch.cat((encoder_hidden_states, hidden_states), dim=1)
        q = _normed(attn.norm_q, _heads(attn, attn.to_q(both)))
        k = _normed(attn.norm_k, _heads(attn, attn.to_k(both)))
        v = _heads(attn, attn.to_v(both))
        if image_rotary_emb is not None:
            q[:, n_text:] = apply_rotary_emb(q[:, n_text:], image_rotary_emb, sequence_dim=1)
            if not attn.is_cross_attention:
                k[:, n_text:] = apply_rotary_emb(k[:, n_text:], image_rotary_emb, sequence_dim=1)
        done = _out(attn, self._attend(q, k, v, _prepared(attn, attention_mask, both)).flatten(2))
        return done[:, n_text:], done[:, :n_text]


def _prepared(attn: Any, mask: torch.Tensor | None, keys_of: torch.Tensor) -> torch.Tensor | None:
    """A mask as diffusers has it for every head, as [B, H, Tq or 1, Tk]."""
    if mask is None:
        return None
    batch, n_keys = keys_of.shape[:2]
    prepared: torch.Tensor = attn.prepare_attention_mask(mask, n_keys, batch)
    return prepared.view(batch, attn.heads, -1, prepared.shape[-1])


def frame_attention(attend: AttentionFunction, block: Any, x: torch.Tensor) -> torch.Tensor:
    """Each frame of [B, C, frames, height, width] attends to its own places, by one head.

    In place of the forward of the attention blocks of `AutoencoderKLWan` and `AutoencoderKLQwenImage`.
    """
    batch, channels, frames, height, width = x.shape
    maps = block.norm(x.transpose(1, 2).reshape(batch * frames, channels, height, width))
    qkv = block.to_qkv(maps).flatten(2).transpose(1, 2).contiguous()[:, :, None]
    q, k, v = qkv.chunk(3, dim=-1)
    done = attend(q, k, v).flatten(2).transpose(1, 2).reshape(batch * frames, channels, height, width)
    projected: torch.Tensor = block.proj(done)
    return projected.view(batch, frames, channels, height, width).transpose(1, 2) + x
