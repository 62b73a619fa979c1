"""What of a denoiser can be switched: norms, gates and rotations of SD3's and Flux' transformer blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.normalization import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    AdaLayerNormZeroSingle,
    SD35AdaLayerNormZeroX,
)
from diffusers.models.transformers.transformer_flux import (
    FluxAttention,
    FluxAttnProcessor,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from kernels.by_shape import ByShape
from kernels.denoiser_blocks import (
    FusedAdaNorm,
    FusedContinuousAdaNorm,
    FusedDualAdaNorm,
    FusedFluxBlock,
    FusedFluxProcessor,
    FusedFluxSingleBlock,
    FusedJointBlock,
)
from kernels.swaps import ClassSwap, Plan, Switched
from kernels.switch import Switch

_MODELS = (FluxTransformer2DModel, SD3Transformer2DModel)
_FORMS: dict[Any, type[nn.Module]] = {
    AdaLayerNormContinuous: FusedContinuousAdaNorm,
    AdaLayerNormZero: FusedAdaNorm,
    AdaLayerNormZeroSingle: FusedAdaNorm,
    SD35AdaLayerNormZeroX: FusedDualAdaNorm,
    JointTransformerBlock: FusedJointBlock,
    FluxTransformerBlock: FusedFluxBlock,
    FluxSingleTransformerBlock: FusedFluxSingleBlock,
}


def attach(denoiser: Any, switch: Switch) -> Switched | ByShape:
    """Switch the norms of `denoiser` over. Says what was switched and why the rest was not; `detach` undoes
    it.

    "triton" switches all that can be, "auto" does so at the shapes at which the whole network was measured to
    be faster, and nothing on a CPU. Other models of the process stay as they are. To be attached once; a
    second time needs `detach` before.
    """
    if not switch.is_on:
        return Switched(Plan([], {"": "kernels are off"}))
    made = plan(denoiser)
    if switch.mode == "triton" or not made.parts:
        return Switched(made)
    return ByShape("denoiser norms", denoiser, made, switch, functools.partial(_repeated, denoiser))


def plan(denoiser: Any) -> Plan:
    """What can be switched of `denoiser`, and why the rest cannot. Changes nothing."""
    made = Plan([], {})
    if type(denoiser) not in _MODELS:
        made.left[""] = f"no fused norms for a {type(denoiser).__name__}"
        return made
    for path, module in denoiser.named_modules():
        kind = type(module)
        if kind is FluxAttention:
            if (reason := _why_not_processor(module)) is not None:
                made.left[path] = reason
            else:
                made.parts.append(ClassSwap(module.processor, FusedFluxProcessor, "QK norm and rotation"))
        elif kind in _FORMS:
            if (reason := _why_not(module)) is not None:
                made.left[path] = reason
            else:
                what = "norm with scale and shift" if hasattr(module, "linear") else "block with gates"
                made.parts.append(ClassSwap(module, _FORMS[kind], what))
    return made


def _repeated(denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], torch.Tensor]:
    def repeat() -> torch.Tensor:
        made: torch.Tensor = denoiser(*args, **{**kwargs, "return_dict": False})[0]
        return made

    return repeat


def _why_not(module: Any) -> str | None:
    if getattr(module, "_chunk_size", None) is not None:
        return "feeds forward in chunks"
    if getattr(module, "emb", None) is not None:
        return "embeds a class"
    norms = [getattr(module, name, None) for name in ("norm", "norm2", "norm2_context")]
    for norm in norms:
        # a block's `norm` may be one of the adaptive ones
        if isinstance(norm, nn.Module) and type(norm) not in _FORMS:
            if getattr(norm, "normalized_shape", None) is None:
                return f"norms by {type(norm).__name__}"
            if norm.weight is not None or norm.bias is not None:
                return "its norm has weights"
    return None


def _why_not_processor(attention: Any) -> str | None:
    if type(attention.processor) is not FluxAttnProcessor:
        return f"attends by {type(attention.processor).__name__}"
    names = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
    norms = [getattr(attention, name, None) for name in names]
    if any(norm is not None and (norm.weight is None or norm.eps is None) for norm in norms):
        return "its norms have no weights"
    return "has one projection for all" if attention.fused_projections else None
