"""Parts made again from the node's host copies are those that the libraries load, to the last bit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.families.cases import CPU, EMBEDDED, Case
from worker.components import Components
from worker.host_copy import HostCopy, difference, made_from
from worker.host_folder import HeldFile, HostFolder
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole


@pytest.fixture
def folder(tmp_path: Path) -> HostFolder:
    return HostFolder(tmp_path / "weights", 10**9)


@pytest.fixture
def name(case: Case, request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["case"])


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    away = folder.with_name(f"{folder.name}-away")
    os.rename(folder, away)
    try:
        yield
    finally:
        os.rename(away, folder)


def loaded(case: Case, folder: HostFolder) -> ResidentModel:
    """As a worker that has just started loads it."""
    resident = ResidentModel("tested", case.model, CPU, Components(CPU, folder))
    resident.load(resident.stage_names)
    return resident


def pixels(case: Case, resident: ResidentModel) -> torch.Tensor:
    made: torch.Tensor = run_whole(resident, case.generation).get(resident.graphs["text"].output)
    return made


def test_every_part_of_every_family(case: Case, name: str, folder: HostFolder, tmp_path: Path) -> None:
    """On the worker that writes the copies, on another one, and on one that starts without the files."""
    if name == EMBEDDED:
        # its folder is in the checkout, where it stays
        shutil.copytree(case.model.source, tmp_path / "model")
        case = Case(
            msgspec.structs.replace(case.model, source=str(tmp_path / "model")),
            *(case.whole, case.alone, case.generation),
        )
    expected = pixels(case, case.whole)
    first = loaded(case, folder)
    assert set(first.origins.values()) == {"disk"}
    assert first.notes == ()
    assert torch.equal(pixels(case, first), expected)
    second = loaded(case, folder)
    with moved_away(Path(case.model.source)):
        third = loaded(case, folder)
    for resident in (first, second, third):
        assert resident.resident_bytes == case.whole.resident_bytes
    for resident in (second, third):
        assert set(resident.origins.values()) == {"host"}
        assert resident.origins.keys() == first.origins.keys()
        assert torch.equal(pixels(case, resident), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_each_part_as_the_library_loads_it(case: Case, folder: HostFolder, dtype: torch.dtype) -> None:
    """Some classes keep some layers in float32 whatever is asked for."""
    for component in sorted(case.whole._held()):
        spec = case.whole.pipe.get_component_spec(component)
        plain = spec.load(dtype=dtype, use_safetensors=True).eval().requires_grad_(False)
        assert Components(CPU, folder).load(spec, dtype).origin == "disk"
        part = Components(CPU, folder).load(spec, dtype)
        assert part.origin == "host"
        assert difference(part.module, plain) is None


def test_what_a_part_would_take_is_known_before(case: Case) -> None:
    for component in case.whole._held():
        stand_in = case.whole._stand_ins[component]
        part = getattr(case.whole.pipe, component)
        held_bytes = sum(t.numel() * t.element_size() for t in (*part.parameters(), *part.buffers()))
        assert stand_in.n_bytes == held_bytes


class Part(torch.nn.Module):
    """Something to copy: tied weights, a buffer that no state dict has, a plain tensor, a list of them."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width
        self.one = torch.nn.Linear(width, width)
        self.other = torch.nn.Linear(width, width)
        self.other.weight = self.one.weight
        self.table: torch.Tensor
        self.register_buffer("table", torch.arange(5.0), persistent=False)
        self.plain = torch.arange(4)
        self.several = [torch.ones(2)]

    def to_json_string(self) -> str:
        return f'{{"width": {self.width}}}'

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Part:
        return cls(**config)


def made(held: HeldFile) -> Part:
    module = made_from(held, Part, torch.float32)
    assert isinstance(module, Part)
    return module


def written(module: torch.nn.Module, folder: HostFolder) -> HeldFile:
    copy = HostCopy(module)
    held = folder.write("part", copy.n_bytes, copy.write)
    # nothing takes the room
    held.close()
    return held


def test_ties_buffers_and_plain_tensors(folder: HostFolder) -> None:
    module = Part().requires_grad_(False).eval()
    module.table.add_(1)
    module.plain += 1
    again = made(written(module, folder))
    assert difference(again, module) is None
    assert again.other.weight is again.one.weight
    assert again.table.equal(module.table)
    assert list(again.state_dict()) == list(module.state_dict())


def test_a_write_stays_with_its_writer(folder: HostFolder) -> None:
    held = written(Part(), folder)
    one, other = (made(held) for _ in range(2))
    one.one.weight.fill_(7.0)
    assert not other.one.weight.equal(one.one.weight)
    assert difference(made(held), other) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda part: part.one.bias.data.__setitem__(0, 9.0), "one has another _parameters"),
        (lambda part: setattr(part, "plain", part.plain.float()), "it has another plain"),
        (lambda part: part.several.append(torch.ones(1)), "it has another several"),
        (lambda part: part.table.fill_(float("nan")), "it has another _buffers"),
        (lambda part: setattr(part, "new", 1), "it is made differently"),
        (lambda part: part.train(), "it has another training"),
        (lambda part: part.register_module("more", torch.nn.ReLU()), "its modules are others: more"),
        (lambda part: setattr(part, "width", 4), "its config is another one"),
        (
            lambda part: setattr(part.other, "weight", torch.nn.Parameter(part.one.weight.clone())),
            "other weights of it are tied",
        ),
    ],
)
def test_a_difference_is_noticed(folder: HostFolder, change: Any, reason: str) -> None:
    module = Part().eval()
    again = made(written(module, folder))
    assert difference(again, module) is None
    change(module)
    assert difference(again, module) == reason


def test_numbers_that_are_none_equal_themselves(folder: HostFolder) -> None:
    module = Part().eval()
    module.one.weight.data[0, 0] = float("nan")
    assert difference(made(written(module, folder)), module) is None


def test_what_is_no_host_copy_is_refused(folder: HostFolder) -> None:
    held = folder.write("odd", 100, lambda file: None)
    held.close()
    with pytest.raises(ValueError, match="no host copy"):
        made(held)
    strided = Part()
    strided.plain = torch.ones(4, 4).T
    with pytest.raises(ValueError, match=r"plain is not contiguous"):
        HostCopy(strided)
