"""Whatever a fuzzer makes of `/openapi.json` is answered as it says; scripted workers answer at once."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest

from gateway.api_keys import ApiKey, digest_of, store_keys
from tests.gateway.fuzz import fuzzed
from tests.gateway.served import served

KEY = "tk-" + "0" * 40


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    store_keys(file, [ApiKey(name="fuzzer", sha256=digest_of(KEY), scope="admin")])
    return file


async def test_all_but_what_ends_the_model(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        await gateway.ready()
        flags = ("--max-examples", "40", "--exclude-operation-id", "unloadModel")
        assert await fuzzed(gateway.url, tmp_path, *flags, model="triptych-emoji") > 300
        assert not [line for line in gateway.lines if "a bug of ours" in line]
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.url}/metrics") as response:
            text = await response.text()
    # or nothing but refusals would have been looked at
    done = re.search(r'triptych_requests_total\{code="",model="triptych-emoji",outcome="done"\} (\d+)', text)
    assert done is not None
    assert int(done.group(1)) > 50


async def test_all_and_keys(tmp_path: Path, keys: Path) -> None:
    async with served(tmp_path, "--api-keys", str(keys)) as gateway:
        await gateway.ready()
        # a model that is told to leave is there until it has left
        flags = (
            "--max-examples",
            "5",
            "-H",
            f"Authorization: Bearer {KEY}",
            "--exclude-checks",
            "use_after_free,positive_data_acceptance",
        )
        assert await fuzzed(gateway.url, tmp_path, *flags, model="triptych-emoji") > 100
        assert not [line for line in gateway.lines if "a bug of ours" in line]
