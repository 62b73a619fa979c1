"""Tiny random models of real diffusers classes, saved to a folder as a published model would be.

Adding a family to the tests is one module beside this one and one line in `TINY`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.catalogue import Model
from tests.families.flux import flux
from tests.families.sd3 import sd3
from tests.families.wan import wan

TINY: dict[str, Callable[[Path], Model]] = {"sd3": sd3, "flux": flux, "wan": wan}
