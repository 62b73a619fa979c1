from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.families.cases import NAMES, Case, make_case
from tests.worker.driver import Driver
from wire.handoff import HandoffStore


@pytest.fixture(scope="session", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    return make_case(name, tmp_path_factory.mktemp(name))


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(HandoffStore(tmp_path / "store", node="here", capacity_bytes=10_000_000))
    yield driver
    driver.close()
