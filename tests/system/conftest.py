"""A tiny random model, the catalogue that has it, and the reference of its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.catalogue_file import catalogue_file
from kernels.switch import Switch
from pipelines.catalogue import Model
from tests.families.sd3 import sd3
from tests.system.pictures import STAGES
from worker.components import Components
from worker.resident import ResidentModel


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def catalogue(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return catalogue_file(tmp_path_factory.mktemp("catalogue"), "tiny", model)


@pytest.fixture(scope="session")
def whole(model: Model) -> ResidentModel:
    """The reference: the same model, whole, in this process."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    # what the gateway's workers are told by default
    components = Components(device, switch=Switch("auto", device))
    resident = ResidentModel("tiny", model, device, components)
    resident.load(STAGES)
    return resident
