from __future__ import annotations

import subprocess
import sys

from gateway.supervisor import CHECKOUT


def test_the_gateway_imports_no_torch_and_no_worker() -> None:
    code = (
        "import pkgutil, sys, gateway, gateway.__main__\n"
        "for module in pkgutil.iter_modules(gateway.__path__):\n"
        "    __import__('gateway.' + module.name)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'worker'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
