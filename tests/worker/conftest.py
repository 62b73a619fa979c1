from __future__ import annotations

import pytest

from tests.families.cases import NAMES, Case, make_case


@pytest.fixture(scope="session", params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    return make_case(name, tmp_path_factory.mktemp(name))
