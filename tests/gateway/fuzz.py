"""schemathesis over a running server: how it is called, and (as its hooks) what it does besides.

What a schema cannot say is checked here: a request that the schema allows may be refused all the same, by a
bound of the model's or by another field, and then the reply must name the field. `positive_data_acceptance`
knows no such thing and is left out for it. With `drop_if_late` a 504 is what the client asked for, and a
model that comes or goes is told by a 503 or a 409.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

from gateway.supervisor import CHECKOUT

CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
"""

ONLY_THE_MODEL_KNOWS = frozenset(
    {"prompt", "negative_prompt", "size", "num_inference_steps", "guidance_scale", "lora"}
)
BY_CIRCUMSTANCE = frozenset(
    {
        "model_not_found",
        "file_not_found",
        "deadline_infeasible",
        "deadline_missed",
        "not_ready",
        "model_unloading",
        "model_unloaded",
    }
)
BESIDE_ANOTHER_FIELD = frozenset({"quality", "output_compression"})

_SIZES = ("64x64", "128x64", "64x128", "128x128", "auto")
_MODEL, _MAX_IMAGES, _MAX_STEPS = "FUZZ_MODEL", "FUZZ_MAX_IMAGES", "FUZZ_MAX_STEPS"


@schemathesis.check
def done_or_refused_by_name(ctx: CheckContext, response: Response, case: Case[Any]) -> bool | None:
    """What the schema allows is done, or refused for what no schema can say."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code < 400:
        return None
    error = response.json()["error"]
    if error["code"] not in BY_CIRCUMSTANCE:
        assert response.status_code == 400, error
        assert error["param"] in ONLY_THE_MODEL_KNOWS | BESIDE_ANOTHER_FIELD, error
    return None


@schemathesis.hook
def map_body(context: HookContext, body: Any) -> Any:
    """Most words are no model's name and few sizes fit: with those, little else would be reached.

    Valid values are replaced by valid values only, so that an invalid body stays that.
    """
    if not isinstance(body, dict):
        return body
    made = dict(body)
    if isinstance(made.get("model"), str):
        made["model"] = os.environ[_MODEL]
    if isinstance(size := made.get("size"), str) and re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", size):
        made["size"] = _SIZES[len(size) % len(_SIZES)]
    for name, variable in (("n", _MAX_IMAGES), ("num_inference_steps", _MAX_STEPS)):
        if type(made.get(name)) is int and 1 <= made[name] <= 10**9:
            made[name] = 1 + made[name] % int(os.environ[variable])
    return made


async def fuzzed(
    url: str, folder: Path, *flags: str, model: str, max_images: int = 10, max_steps: int = 20
) -> int:
    """All checks over the server at `url`; fails with the report. Returns how many requests were sent."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", f"{url}/openapi.json", "--mode", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--generation-deterministic", "--no-color", "--continue-on-failure", "--request-timeout", "30"),
        *flags,
        stdout=PIPE,
        stderr=STDOUT,
        # it leaves a folder where it runs
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "SCHEMATHESIS_HOOKS": "tests.gateway.fuzz",
            _MODEL: model,
            _MAX_IMAGES: str(max_images),
            _MAX_STEPS: str(max_steps),
        },
    )
    assert process.stdout is not None
    output = (await process.stdout.read()).decode()
    assert await process.wait() == 0, output
    found = re.search(r"(\d+) generated", output)
    assert found is not None, output
    return int(found.group(1))
