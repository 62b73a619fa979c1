"""What of a VAE's decoder can be switched, on a GPU and on a CPU.

`AutoencoderKL` (SD3, Flux, SDXL), and the causal video autoencoders of Wan and of Qwen-Image. The encoder
stays as it is: a picture to start from is the same latents however the result is decoded. So does the
convolution before the decoder (`post_quant_conv`), which is 1x1 over a few channels, and attention, whose
calls are switched by themselves; its norm is a part of this.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as qwen
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from kernels import decoder_image as image
from kernels import decoder_video as video
from kernels.by_shape import ByShape
from kernels.swaps import ChannelsLast, ClassSwap, Derived, Plan, Switched
from kernels.switch import Switch
from kernels.upsample_conv import fold

_VIDEO = (AutoencoderKLQwenImage, AutoencoderKLWan)
_NORM, _NORM_SILU, _UPSAMPLE = "norm", "norm and SiLU", "upsampling and convolution"


def attach(vae: Any, switch: Switch) -> Switched | ByShape:
    """Switch the decoder of `vae` over. Says what was switched and why the rest was not; `detach` undoes it.

    "triton" switches all that can be. "auto" on a GPU does so at the shapes at which the whole decoder was
    measured to be faster; on a CPU it gives the form without Triton that was measured to be faster than
    diffusers' on the model that ships inside, at every shape. Weights stay what they are, and other models of
    the process as they are. To be attached once; a second time needs `detach` before.
    """
    if switch.mode == "torch":
        return Switched(Plan([], {"": "kernels are off"}))
    if switch.mode == "triton":
        return Switched(plan(vae, on_cpu=False))
    if switch.device.type == "cpu":
        return Switched(plan(vae, on_cpu=True))
    made = plan(vae, on_cpu=False)
    if not made.parts:
        return Switched(made)
    return ByShape("decode", vae.decoder, made, switch, functools.partial(_decoded, vae.decoder))


def plan(vae: Any, *, on_cpu: bool) -> Plan:
    """What can be switched of `vae`, and why the rest cannot. Changes nothing. `on_cpu`: not to Triton."""
    if type(vae) is AutoencoderKL:
        return _image_plan(vae.decoder, on_cpu=on_cpu)
    if type(vae) in _VIDEO:
        if on_cpu:
            return Plan([], {"decoder": "no form of a video decoder on a CPU was measured to be faster"})
        return _video_plan(vae.decoder)
    return Plan([], {"": f"no fused decoder for a {type(vae).__name__}"})


def _decoded(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> functools.partial[torch.Tensor]:
    # without what a video decoder remembers of earlier frames, which a second call would change
    return functools.partial(decoder, args[0])


def _image_plan(decoder: Any, *, on_cpu: bool) -> Plan:
    made = Plan([ClassSwap(decoder.conv_in, image.EntryConv, "channels-last entry")], {})
    for path, module in decoder.named_modules(prefix="decoder"):
        if isinstance(module, nn.Conv2d):
            if not on_cpu:
                made.parts.append(ChannelsLast(module))
        elif type(module) is ResnetBlock2D:
            form = image.InPlaceResnet if on_cpu else image.FusedResnet
            _add(made, path, image.why_not_resnet(module), ClassSwap(module, form, "residual block"))
        elif type(module) is Upsample2D:
            _add_folded(made, path, image.why_not_upsample(module), module, image.FoldedUpsample)
        elif type(module) is Attention and not on_cpu:
            reason = None if type(module.group_norm) is nn.GroupNorm else "has no group norm"
            _add(made, path, reason, ClassSwap(module.group_norm, image.FusedGroupNorm, _NORM))
    norm, silu = decoder.conv_norm_out, decoder.conv_act
    if type(norm) is not nn.GroupNorm or type(silu) is not nn.SiLU:
        made.left["decoder.conv_norm_out"] = f"is {type(norm).__name__} and {type(silu).__name__}"
    elif on_cpu:
        made.parts.append(ClassSwap(silu, image.InPlaceSilu, "SiLU in place"))
    else:
        made.parts += [
            ClassSwap(norm, image.FusedGroupNormSilu, _NORM_SILU),
            ClassSwap(silu, nn.Identity, "SiLU taken in"),
        ]
    return made


def _video_plan(decoder: Any) -> Plan:
    made = Plan([], {})
    for path, module in decoder.named_modules(prefix="decoder"):
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            made.parts.append(ChannelsLast(module))
        elif type(module) in (wan.WanResidualBlock, qwen.QwenImageResidualBlock):
            _add_activated(made, path, module, [module.norm1, module.norm2])
        elif type(module) in (wan.WanAttentionBlock, qwen.QwenImageAttentionBlock):
            swap = ClassSwap(module.norm, video.FusedChannelNorm, _NORM)
            _add(made, f"{path}.norm", video.why_not_norm(module.norm), swap)
        elif type(module) in (wan.WanResample, qwen.QwenImageResample) and "upsample" in module.mode:
            _add_folded(made, path, None, module.resample, video.FoldedResample)
    _add_activated(made, "decoder.norm_out", decoder, [decoder.norm_out])
    return made


def _add(made: Plan, path: str, reason: str | None, swap: ClassSwap) -> None:
    if reason is None:
        made.parts.append(swap)
    else:
        made.left[path] = reason


def _add_folded(made: Plan, path: str, reason: str | None, module: Any, form: type[nn.Module]) -> None:
    conv: Any = module[1] if isinstance(module, nn.Sequential) else module.conv
    if reason is None:
        made.parts.append(Derived(module, "folded", lambda: fold(conv.weight)))
    _add(made, path, reason, ClassSwap(module, form, _UPSAMPLE))


def _add_activated(made: Plan, path: str, owner: Any, norms: list[Any]) -> None:
    """Norms with the SiLU that the owner has behind each of them, which stands still then."""
    reasons = [video.why_not_norm(norm) for norm in norms]
    if type(owner.nonlinearity) is not nn.SiLU:
        reasons.append(f"activates by {type(owner.nonlinearity).__name__}")
    if (reason := next(filter(None, reasons), None)) is not None:
        made.left[path] = reason
        return
    made.parts += [ClassSwap(norm, video.FusedChannelNormSilu, _NORM_SILU) for norm in norms]
    made.parts.append(ClassSwap(owner.nonlinearity, nn.Identity, "SiLU taken in"))
