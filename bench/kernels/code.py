"""What Triton's compiler makes of the kernels for a GPU that need not be here.

The compiler runs on any machine: it has only to be told which GPU it is for. So it can be known without one
whether each kernel compiles for it, what it takes there, and which instructions it became; how fast it is
cannot. Ops are called as they always are, on tensors of the CPU, but launching ends with compiling.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.errors import PTXASError
from triton.runtime.jit import JITFunction

from bench.kernels.ops import ops
from kernels.attention import attention, attention_with_lse
from kernels.attention.settings import Settings, candidates, settings_for

DEVICES = {90: "NVIDIA H100", 80: "NVIDIA A100"}
"""By compute capability, ten times major plus minor: a name that has the shipped settings."""

SHARED_BYTES = {90: 227 * 1024, 80: 163 * 1024}
"""The most that one program may have of a multiprocessor's shared memory. Source: CUDA C++ Programming Guide,
table of technical specifications per compute capability."""

_REGISTERS = 65536
_WARPS = 64
_N_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """One compiled kernel. `call`: of which call it is a part; `settings`: as the call was given them.

    `spilled_bytes`: of each thread, in what would be registers. `warps_resident`: how many of a
    multiprocessor's 64 fit beside each other by registers and shared memory. Instructions are counted as
    they stand in the code, not as often as they run: `wgmma` and `mma` multiply matrices (Hopper's own way,
    and the one before), `bulk_copies` are by the tensor copy engine. `failed`: why there is no code.
    """

    call: str
    arch: int
    kernel: str
    settings: tuple[int, ...] = ()
    warps: int = 0
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    wgmma: int = 0
    mma: int = 0
    bulk_copies: int = 0
    compile_s: float = 0.0
    failed: str = ""

    @property
    def warps_resident(self) -> int:
        """0 if not one program fits."""
        if self.failed or self.shared_bytes > SHARED_BYTES[self.arch]:
            return 0
        # registers are given out to a warp in units of 256
        by_registers = _REGISTERS // (self.warps * -(-self.registers * 32 // 256) * 256)
        by_memory = SHARED_BYTES[self.arch] // max(1, self.shared_bytes)
        return self.warps * min(by_registers, by_memory, _WARPS // self.warps)


class Case(NamedTuple):
    """`run` calls an op on tensors of the CPU."""

    call: str
    settings: tuple[int, ...]
    run: Callable[[], object]


def compiled(case: Case, arch: int) -> list[Code]:
    """What each launch of `case` is for a GPU of compute capability `arch`, in the order of launches."""
    found: list[Code] = []
    try:
        # of a fault, Triton prints all of the code
        with (
            contextlib.redirect_stdout(io.StringIO()),
            _compiling_only(arch, lambda kernel, seconds: found.append(_code(case, arch, kernel, seconds))),
        ):
            case.run()
    except (triton.CompilationError, PTXASError, RuntimeError) as error:
        # RuntimeError is what a pass of the compiler that fails ends in
        told = next(iter(re.findall(r"ptxas fatal.*: (.*)", str(error))), str(error).strip().split("\n")[-1])
        failed = f"{type(error).__name__}: {told}"
        found.append(Code(call=case.call, arch=arch, kernel="", settings=case.settings, failed=failed))
    return found


def op_cases() -> list[Case]:
    """The small ops at the channels and heads of Flux; the number of pixels and tokens changes nothing."""
    return [
        Case(name, (), functools.partial(op.kernel, *op.make(_drawn)))
        for name, op in ops(128, 64, 64, 24, 128).items()
        # a convolution of torch's, with other weights: no kernel of ours
        if name != "upsampling + convolution"
    ]


def shipped_cases(arch: int) -> list[Case]:
    """Attention with the shipped settings: every head size that a served model has, and those between."""
    made = []
    for dtype in (torch.bfloat16, torch.float32):
        for size in (32, 40, 64, 80, 96, 128, 160, 256, 512):
            for n_keys in (77, _N_TOKENS):
                made.append(_attention(arch, dtype, size, n_keys))
    for size in (64, 128):
        made.append(_attention(arch, torch.float16, size, _N_TOKENS))
        made.append(_attention(arch, torch.bfloat16, size, _N_TOKENS, mask="keys"))
        made.append(_attention(arch, torch.bfloat16, size, _N_TOKENS, mask="added"))
        made.append(_attention(arch, torch.bfloat16, size, _N_TOKENS + 333, with_lse=True))
    return made


def candidate_cases(arch: int) -> list[Case]:
    """Attention with everything that the tuner would try at the head sizes that matter the most."""
    return [
        _attention(arch, torch.bfloat16, size, n_keys, settings=settings)
        for size in (64, 128, 512)
        for n_keys in (77, _N_TOKENS)
        for settings in candidates(DEVICES[arch], arch, torch.bfloat16, size, n_keys)
    ]


def _attention(
    arch: int,
    dtype: torch.dtype,
    size: int,
    n_keys: int,
    *,
    mask: str = "",
    with_lse: bool = False,
    settings: Settings | None = None,
) -> Case:
    chosen = settings or settings_for(DEVICES[arch], dtype, size, n_keys)
    told = f"attention, {str(dtype).removeprefix('torch.')}, heads of {size}, {n_keys} keys"
    told += (f", mask of {mask}" if mask == "keys" else ", added mask" if mask else "") + ", LSE" * with_lse

    def run() -> object:
        q, k, v = (torch.empty(1, n_tokens, 2, size, dtype=dtype) for n_tokens in (_N_TOKENS, n_keys, n_keys))
        masks = {
            "keys": torch.ones(1, n_keys, dtype=torch.bool),
            "added": torch.zeros(1, 1, _N_TOKENS, n_keys, dtype=dtype) if mask == "added" else None,
        }
        op = attention_with_lse if with_lse else attention
        return op(q, k, v, mask=masks.get(mask), settings=chosen)

    return Case(told, tuple(chosen), run)


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


def _code(case: Case, arch: int, kernel: Any, seconds: float) -> Code:
    usage, instructions = _dumped(kernel.asm["cubin"])
    return Code(
        call=case.call,
        arch=arch,
        kernel=kernel.name,
        settings=case.settings,
        warps=kernel.metadata.num_warps,
        registers=usage["REG"],
        spilled_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=kernel.metadata.shared,
        wgmma=len(re.findall(r"\bHGMMA", instructions)),
        mma=len(re.findall(r"\bHMMA", instructions)),
        bulk_copies=len(re.findall(r"\bUTMALDG", instructions)),
        compile_s=round(seconds, 2),
    )


def _dumped(cubin: bytes) -> tuple[dict[str, int], str]:
    """What one thread takes, by kind, and the instructions."""
    tool = knobs.nvidia.cuobjdump.path
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        usage, instructions = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        )
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", usage)}, instructions


@contextlib.contextmanager
def _compiling_only(arch: int, on_code: Callable[[Any, float], None]) -> Iterator[None]:
    """Launches compile for `arch` and end there. Nothing is taken from Triton's cache, or left in it."""
    run, active = JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        began_s = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        on_code(kernel, time.perf_counter() - began_s)
        return kernel

    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        JITFunction.run = compile_only
        driver.set_active(_Absent(arch))
        try:
            yield
        finally:
            JITFunction.run = run
            driver._active = active


class _Absent:
    """Of Triton's driver what compiling asks for, of a GPU that is not here. A kind is a device."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> int:
        return self._arch

    def get_current_stream(self, device: int) -> int:
        return 0
