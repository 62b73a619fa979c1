"""The kernels as they are compiled for a GPU that need not be here; faults of the code are seen."""

from __future__ import annotations

import pytest
import torch
import triton
from triton.runtime import driver

from bench.kernels.code import SHARED_BYTES, Case, Code, candidate_cases, compiled, op_cases, shipped_cases
from kernels.attention import attention
from kernels.attention.settings import Settings

HOPPER, AMPERE = 90, 80


def attending(size: int, settings: Settings) -> Case:
    """256 queries and keys of two heads, bfloat16."""

    def run() -> object:
        q, k, v = (torch.empty(1, 256, 2, size, dtype=torch.bfloat16) for _ in range(3))
        return attention(q, k, v, settings=settings)

    return Case("attention", tuple(settings), run)


def only(case: Case) -> Code:
    (code,) = compiled(case, HOPPER)
    return code


@pytest.mark.parametrize("case", op_cases(), ids=lambda case: case.call)
@pytest.mark.parametrize("arch", [HOPPER, AMPERE])
def test_ops_compile_and_keep_to_registers(case: Case, arch: int) -> None:
    found = compiled(case, arch)
    assert found
    for code in found:
        assert (code.failed, code.spilled_bytes) == ("", 0), code
        # memory-bound: enough of them beside each other to wait for memory
        assert code.warps_resident >= 16, code


@pytest.mark.parametrize("arch", [HOPPER, AMPERE])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_shipped_attention_compiles_and_keeps_to_registers(arch: int, dtype: str) -> None:
    """A few bytes may spill at the widest heads. Those of float32 that do are told in the settings."""
    sizes = (64, 128, 512) if dtype == "bfloat16" else (32, 64)
    cases = {f"attention, {dtype}, heads of {size}, 4096 keys" for size in sizes}
    found = [code for case in shipped_cases(arch) if case.call in cases for code in compiled(case, arch)]
    assert len(found) == len(sizes)
    for code in found:
        assert not code.failed, code
        assert code.spilled_bytes <= (16 if "512" in code.call else 0), code
        assert code.warps_resident >= 8, code
        # Hopper's own matrix products take 64 rows
        assert (code.wgmma > 0) == (arch == HOPPER and dtype == "bfloat16"), code
        assert (code.mma > 0) == (arch == AMPERE and dtype == "bfloat16"), code


def test_what_the_tuner_tries_has_the_copy_engine_in_it() -> None:
    settings = next(s for case in candidate_cases(HOPPER) if (s := Settings(*case.settings)).descriptors)
    assert only(attending(64, settings)).bulk_copies > 0
    assert only(attending(64, settings._replace(descriptors=0))).bulk_copies == 0


def test_too_large_a_block_is_seen() -> None:
    spilled = only(attending(256, Settings(64, 32, 4, 1)))
    assert spilled.spilled_bytes > 0
    wide = only(attending(256, Settings(64, 64, 8, 4)))
    assert wide.shared_bytes > SHARED_BYTES[HOPPER]
    assert wide.warps_resident == 0


def test_what_does_not_compile_is_told() -> None:
    code = only(attending(64, Settings(24, 64, 4, 1)))
    assert "power of 2" in code.failed
    assert code.warps_resident == 0


def test_launches_are_launches_again() -> None:
    """Compiling for a GPU that is not here leaves nothing behind."""
    before, active = triton.runtime.jit.JITFunction.run, driver._active
    assert compiled(op_cases()[1], HOPPER)
    assert triton.runtime.jit.JITFunction.run is before
    assert driver._active is active
