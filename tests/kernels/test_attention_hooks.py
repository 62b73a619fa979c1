"""The checks of `attention_hook_checks` under Triton's interpreter, and what needs none."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.attention_hook_checks import CHECKS, tiny_flux
from tests.kernels.interpreter import interpreted


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return interpreted("tests.kernels.attention_hook_checks")


@pytest.mark.parametrize("name", CHECKS)
def test_interpreted(said: dict[str, str], name: str) -> None:
    assert said[name] == ""


def test_nothing_is_attached_without_a_device_for_triton() -> None:
    """ "auto" on a CPU is torch, and "triton" is refused; neither needs Triton."""
    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import KernelsUnavailable, Mode, Switch

    modes: tuple[Mode, ...] = ("auto", "torch")
    for mode in modes:
        model = tiny_flux()
        attached = attach(model, Switch(mode, torch.device("cpu")))
        assert not attached.switched
        assert model.transformer_blocks[0].attn.processor._attention_backend is None
    with pytest.raises(KernelsUnavailable, match="no cpu device"):
        Switch("triton", torch.device("cpu"))


def test_lengths_are_put_into_few_classes() -> None:
    from kernels.switch import size_class

    assert [size_class(n) for n in (1, 2, 3, 8, 9, 77, 512, 513, 1024, 4096, 16384, 65536)] == [
        0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8,
    ]  # fmt: skip
