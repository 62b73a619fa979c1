"""How transformer blocks of SD3 and Flux compute when they are switched: fused norms, gates and rotations.

Forms of diffusers' modules by their attributes; attention itself, its projections and the feed-forward parts
are left to the model. B pictures, T tokens, C channels, H heads of D.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import nn

from kernels.gated_residual import gated_residual
from kernels.layer_norm_scale_shift import layer_norm_scale_shift
from kernels.qk_norm_rope import qk_norm_rope

_FLOAT16_MAX = 65504


class FusedAdaNorm(nn.Module):
    """`AdaLayerNormZero` and its single form: x [B, T, C] normed, and what else the timestep says."""

    silu: nn.SiLU
    linear: nn.Linear
    norm: nn.LayerNorm
    n_vectors: int

    def forward(self, x: torch.Tensor, *, emb: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shift, scale, *rest = _vectors(self, emb)
        return (layer_norm_scale_shift(x, scale, shift, self.norm.eps), *rest)


class FusedDualAdaNorm(nn.Module):
    """`SD35AdaLayerNormZeroX`: x normed twice over, for two attentions."""

    silu: nn.SiLU
    linear: nn.Linear
    norm: nn.LayerNorm

    def forward(self, hidden_states: torch.Tensor, emb: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shift, scale, *middle, shift_2, scale_2, gate_2 = _vectors(self, emb)
        first = layer_norm_scale_shift(hidden_states, scale, shift, self.norm.eps)
        second = layer_norm_scale_shift(hidden_states, scale_2, shift_2, self.norm.eps)
        return (first, *middle, second, gate_2)


class FusedContinuousAdaNorm(nn.Module):
    """`AdaLayerNormContinuous`: x [B, T, C] normed."""

    silu: nn.SiLU
    linear: nn.Linear
    norm: nn.LayerNorm

    def forward(self, x: torch.Tensor, conditioning_embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.linear(self.silu(conditioning_embedding).to(x.dtype)).chunk(2, dim=1)
        normed: torch.Tensor = layer_norm_scale_shift(x, scale, shift, self.norm.eps)
        return normed


class FusedJointBlock(nn.Module):
    """`JointTransformerBlock` of SD3 and SD3.5."""

    use_dual_attention: bool
    context_pre_only: bool
    norm1: nn.Module
    norm1_context: nn.Module
    norm2: nn.LayerNorm
    norm2_context: nn.LayerNorm
    attn: nn.Module
    attn2: nn.Module
    ff: nn.Module
    ff_context: nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Text and picture behind the block; no text behind the last one."""
        options = joint_attention_kwargs or {}
        normed, gate, *half, normed_2, gate_2 = (
            self.norm1(hidden_states, emb=temb)
            if self.use_dual_attention
            else (*self.norm1(hidden_states, emb=temb), None, None)
        )
        if self.context_pre_only:
            text_normed, text_gate, text_half = self.norm1_context(encoder_hidden_states, temb), None, None
        else:
            text_normed, text_gate, *text_half = self.norm1_context(encoder_hidden_states, emb=temb)
        attended, text_attended = self.attn(
            hidden_states=normed, encoder_hidden_states=text_normed, **options
        )
        hidden = gated_residual(hidden_states, attended, gate)
        if self.use_dual_attention:
            hidden = gated_residual(hidden, self.attn2(hidden_states=normed_2, **options), gate_2)
        hidden = _second_half(hidden, half, self.norm2, self.ff)
        if self.context_pre_only:
            return None, hidden
        text = gated_residual(encoder_hidden_states, text_attended, text_gate)
        return _second_half(text, text_half, self.norm2_context, self.ff_context), hidden


class FusedFluxBlock(nn.Module):
    """`FluxTransformerBlock`, text and picture side by side."""

    norm1: nn.Module
    norm1_context: nn.Module
    norm2: nn.LayerNorm
    norm2_context: nn.LayerNorm
    attn: nn.Module
    ff: nn.Module
    ff_context: nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and picture behind the block. Raises ValueError for a picture adapter's third output."""
        normed, gate, *half = self.norm1(hidden_states, emb=temb)
        text_normed, text_gate, *text_half = self.norm1_context(encoder_hidden_states, emb=temb)
        attended, text_attended = self.attn(
            hidden_states=normed,
            encoder_hidden_states=text_normed,
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        hidden = _second_half(gated_residual(hidden_states, attended, gate), half, self.norm2, self.ff)
        text = gated_residual(encoder_hidden_states, text_attended, text_gate)
        text = _second_half(text, text_half, self.norm2_context, self.ff_context)
        return _within_float16(text), hidden


class FusedFluxSingleBlock(nn.Module):
    """`FluxSingleTransformerBlock`, text and picture as one sequence."""

    norm: nn.Module
    proj_mlp: nn.Linear
    act_mlp: nn.Module
    proj_out: nn.Linear
    attn: nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Text and picture behind the block."""
        n_text = encoder_hidden_states.shape[1]
        joined = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(joined, emb=temb)
        widened = self.act_mlp(self.proj_mlp(normed))
        attended = self.attn(
            hidden_states=normed, image_rotary_emb=image_rotary_emb, **(joint_attention_kwargs or {})
        )
        added = self.proj_out(torch.cat([attended, widened], dim=2))
        hidden = _within_float16(gated_residual(joined, added, gate))
        return hidden[:, :n_text], hidden[:, n_text:]


class FusedFluxProcessor(FluxAttnProcessor):
    """Flux' attention with norm and rotation as one op; the rest goes where the processor's backend says."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """[B, T, C], and the text's if it is beside the picture. Raises ValueError without positions."""
        if image_rotary_emb is None:
            raise ValueError("a fused Flux attention takes positions")
        cos, sin = (table.contiguous() for table in image_rotary_emb)
        n_text = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]

        def by_head(x: torch.Tensor) -> torch.Tensor:
            return x.reshape(*x.shape[:-1], -1, attn.head_dim)

        def turned(x: torch.Tensor, norm: nn.RMSNorm, tokens: slice) -> torch.Tensor:
            made: torch.Tensor = qk_norm_rope(x, norm.weight, cos[tokens], sin[tokens], norm.eps)
            return made

        picture, text = slice(n_text, None), slice(0, n_text)
        query = turned(by_head(attn.to_q(hidden_states)), attn.norm_q, picture)
        key = turned(by_head(attn.to_k(hidden_states)), attn.norm_k, picture)
        value = by_head(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            text_query = turned(by_head(attn.add_q_proj(encoder_hidden_states)), attn.norm_added_q, text)
            text_key = turned(by_head(attn.add_k_proj(encoder_hidden_states)), attn.norm_added_k, text)
            query = torch.cat([text_query, query], dim=1)
            key = torch.cat([text_key, key], dim=1)
            value = torch.cat([by_head(attn.add_v_proj(encoder_hidden_states)), value], dim=1)
        attended: torch.Tensor = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        attended = attended.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return attended
        of_picture = attn.to_out[1](attn.to_out[0](attended[:, n_text:].contiguous()))
        return of_picture, attn.to_add_out(attended[:, :n_text].contiguous())


def _vectors(norm: Any, emb: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[B, C] each, as many as the projection makes."""
    made: torch.Tensor = norm.linear(norm.silu(emb))
    return made.chunk(made.shape[1] // norm.norm.normalized_shape[0], dim=1)


def _second_half(
    hidden: torch.Tensor, vectors: Any, norm: nn.LayerNorm, feed_forward: nn.Module
) -> torch.Tensor:
    """Norm, feed-forward and gate; `vectors`: the timestep's shift, scale and gate."""
    shift, scale, gate = vectors
    made: torch.Tensor = gated_residual(
        hidden, feed_forward(layer_norm_scale_shift(hidden, scale, shift, norm.eps)), gate
    )
    return made


def _within_float16(x: torch.Tensor) -> torch.Tensor:
    """Flux' own bound, which its weights overflow in float16."""
    return x.clip(-_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == torch.float16 else x
