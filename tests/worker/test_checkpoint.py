"""A loop that is left at a boundary and continued elsewhere makes the picture of one that never stopped."""

from __future__ import annotations

import pytest

from tests.families.cases import Case, equal, made_split, made_whole


@pytest.mark.parametrize("pause_at", [(0,), (1,), (4,), (1, 2, 3)])
def test_continued_elsewhere_equals_whole(case: Case, pause_at: tuple[int, ...]) -> None:
    assert equal(made_split(case, case.generation, pause_at=pause_at), made_whole(case, case.generation))
