"""Shared by all tests: thread counts, and no hub."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

# set before torch is imported anywhere: two test processes must not fight over two cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# a gateway that a test starts measures nothing and leaves nothing in the user's folder, unless asked to
os.environ["TRIPTYCH_PROFILE"] = "off"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What was logged, as text that one process can send to another: tests log halves of surrogates."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report
