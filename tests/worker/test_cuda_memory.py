"""Host copies and memory that runs out on a real GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.catalogue import Model
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, make_task
from worker.components import Components
from worker.errors import LoadRefused
from worker.host_folder import HostFolder
from worker.memory import give_back, out_of_memory, told
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return sd3(tmp_path)


def test_the_copy_is_what_the_disk_gives_and_is_let_go(model: Model, tmp_path: Path) -> None:
    device = torch.device("cuda")
    folder = HostFolder(tmp_path / "weights", 10**8)
    pictures = []
    for components in (Components(device), Components(device, folder), Components(device, folder)):
        resident = ResidentModel("tiny", model, device, components)
        resident.load(STAGES)
        pictures.append(run_whole(resident, make_task("t").generation).get("images").cpu())
    assert set(resident.origins.values()) == {"host"}
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
    # nothing is mapped once it is on the device
    assert all(folder.remove(name) for name in resident.part_names)


def test_what_runs_out_is_told_and_given_back() -> None:
    device = torch.device("cuda")
    before_bytes = torch.cuda.memory_allocated()

    def stage() -> None:
        held = [torch.empty(1 << 20, device=device)]
        held.append(torch.empty(1 << 50, dtype=torch.uint8, device=device))

    with pytest.raises(torch.OutOfMemoryError) as raised:
        stage()
    assert out_of_memory(raised.value) is raised.value
    assert "MiB are free now" in told(raised.value, device)
    give_back(device, raised.value)
    assert torch.cuda.memory_allocated() == before_bytes


def test_the_bound_of_a_worker_is_refused_before_it_is_reached(model: Model) -> None:
    device = torch.device("cuda")
    try:
        resident = ResidentModel("tiny", model, device, Components(device, memory_bytes=100))
        with pytest.raises(LoadRefused, match="that this worker may hold are taken"):
            resident.load(STAGES)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
