"""Pictures as URLs, over HTTP."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import ClientResponse

from tests.gateway.conftest import Bench, Start, until
from tests.gateway.served import served
from tests.gateway.test_serving import error_of
from tests.gateway.toy import picture_of


async def items_of(response: ClientResponse) -> list[dict[str, Any]]:
    assert response.status == 200
    data: list[dict[str, Any]] = (await response.json())["data"]
    return data


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


async def put_one(bench: Bench, **fields: Any) -> str:
    """The path of its URL."""
    (item,) = await items_of(await bench.post(seed=7, response_format="url", **fields))
    return path_of(item["url"])


async def test_each_picture_has_a_url_that_expires(start: Start) -> None:
    bench = await start()
    before_s = time.time()
    items = await items_of(await bench.post(seed=7, n=3, response_format="url"))
    assert [set(item) for item in items] == [{"seed", "url", "expires_at"}] * 3
    assert [item["seed"] for item in items] == [7, 8, 9]
    assert len({item["url"] for item in items}) == 3
    for item in items:
        assert before_s + 3600 <= item["expires_at"] <= time.time() + 3601
        async with bench.client.session.get(item["url"]) as response:
            assert (response.status, await response.read()) == (200, picture_of(item["seed"]))


@pytest.mark.parametrize("headers", [{}, {"Host": "localhost:81"}])
async def test_urls_begin_with_what_the_client_called_the_server(
    start: Start, headers: dict[str, str]
) -> None:
    bench = await start()
    host = headers.get("Host", f"{bench.client.host}:{bench.client.port}")
    body = {"prompt": "a hat", "response_format": "url"}
    response = await bench.client.post("/v1/images/generations", json=body, headers=headers)
    (item,) = await items_of(response)
    assert re.fullmatch(rf"http://{re.escape(host)}/v1/files/[0-9a-f]{{40}}\.png", item["url"])


async def test_or_with_what_the_operator_says(start: Start) -> None:
    bench = await start(public_url="https://pictures.example.org/here/")
    (item,) = await items_of(await bench.post(response_format="url"))
    assert item["url"].startswith("https://pictures.example.org/here/v1/files/")


@pytest.mark.parametrize(
    ("output_format", "content_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")]
)
async def test_a_file_is_told_as_what_it_is(start: Start, output_format: str, content_type: str) -> None:
    bench = await start()
    path = await put_one(bench, output_format=output_format)
    got = await bench.client.get(path)
    assert got.headers["Content-Type"] == content_type
    assert got.headers["Content-Length"] == str(len(picture_of(7)))
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Disposition"] == "inline"
    max_age = re.fullmatch(r"private, max-age=(\d+), immutable", got.headers["Cache-Control"])
    assert max_age is not None
    assert 3500 < int(max_age.group(1)) <= 3601
    head = await bench.client.head(path)
    assert (head.status, await head.read()) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]


async def test_a_part_of_a_file(start: Start) -> None:
    bench = await start()
    path = await put_one(bench)
    got = await bench.client.get(path, headers={"Range": "bytes=1-2"})
    assert (got.status, await got.read()) == (206, picture_of(7)[1:3])
    assert got.headers["Content-Range"] == f"bytes 1-2/{len(picture_of(7))}"
    got = await bench.client.get(path, headers={"Range": "bytes=1000-"})
    assert got.status == 416


async def test_a_file_that_did_not_change_is_not_sent_again(start: Start) -> None:
    bench = await start()
    path = await put_one(bench)
    tag = (await bench.client.get(path)).headers["ETag"]
    assert (await bench.client.get(path, headers={"If-None-Match": tag})).status == 304


@pytest.mark.parametrize("name", ["0" * 40 + ".png", "lock", "..%2flock", "%00", "x" * 5000])
async def test_no_other_file_is_there(start: Start, name: str) -> None:
    bench = await start(wait_ready=False)
    response = await bench.client.get(f"/v1/files/{name}")
    assert (response.status, (await error_of(response))["code"]) == (404, "file_not_found")


async def test_after_its_expiry_it_is_gone(start: Start, tmp_path: Path) -> None:
    bench = await start(file_ttl_s=0.5)
    (item,) = await items_of(await bench.post(response_format="url"))
    path = path_of(item["url"])
    assert (await bench.client.get(path)).status == 200
    await until(lambda: time.time() >= item["expires_at"])
    response = await bench.client.get(path)
    assert (response.status, (await error_of(response))["code"]) == (404, "file_not_found")
    # and leaves the disk without anybody asking
    assert len(list((tmp_path / "files").iterdir())) == 2
    await until(lambda: len(list((tmp_path / "files").iterdir())) == 1, "swept")


async def test_a_full_folder_refuses_before_anything_is_run(start: Start) -> None:
    # one picture of 128x128 may need 131 072 bytes
    bench = await start(("denoise", "hold"), files_bytes=200_000)
    first = bench.posted(response_format="url")
    await until(lambda: bench.fleet.tasks())
    response = await bench.post(response_format="url")
    assert (response.status, (await error_of(response))["code"]) == (503, "files_full")
    assert int(response.headers["Retry-After"]) >= 1
    response = await bench.post(n=2, response_format="url")
    assert (response.status, (await error_of(response))["param"]) == (400, "response_format")
    assert bench.engine.book.statistics()["accepted"] == 1
    # the other way takes no room
    assert (await bench.post()).status == 200
    bench.fleet.release.set()
    assert (await first).status == 200
    assert (await bench.post(response_format="url")).status == 200


async def test_who_leaves_holds_no_room(start: Start) -> None:
    bench = await start(("denoise", "hold"), files_bytes=200_000)
    first = bench.posted(response_format="url")
    await until(lambda: bench.fleet.tasks())
    first.cancel()
    await until(lambda: bench.engine.book.statistics()["requests_cancelled"])
    assert (await bench.post(response_format="url")).status == 200


async def test_the_openai_client_gets_both(start: Start) -> None:
    bench = await start()
    base_url = str(bench.client.make_url("/v1"))
    async with openai.AsyncOpenAI(api_key="none", base_url=base_url, max_retries=0) as client:
        for response_format in ("b64_json", "url"):
            reply = await client.images.generate(
                model="toy",
                prompt="a hat",
                n=2,
                size="128x64",
                quality="low",
                output_format="webp",
                output_compression=80,
                background="auto",
                response_format=response_format,
                user="someone",
                stream=False,
                partial_images=0,
                extra_body={"seed": 4, "priority": "interactive", "drop_if_late": True, "slo_ms": 60_000},
            )
            assert (reply.size, reply.quality, reply.output_format) == ("128x64", "low", "webp")
            assert reply.background == "opaque"
            assert reply.usage is None
            assert reply.data is not None
            assert [item.revised_prompt for item in reply.data] == [None, None]
            if response_format == "b64_json":
                assert all(item.b64_json and item.url is None for item in reply.data)
                continue
            for seed, item in enumerate(reply.data, 4):
                assert item.b64_json is None
                assert item.url is not None
                async with bench.client.session.get(item.url) as got:
                    assert await got.read() == picture_of(seed, "128x64")
        with pytest.raises(openai.BadRequestError, match="nothing is streamed") as refused:
            await client.images.generate(prompt="a hat", stream=True)
        assert refused.value.param == "stream"
        with pytest.raises(openai.BadRequestError, match="moderation") as refused:
            await client.images.generate(prompt="a hat", moderation="low")
        assert refused.value.param == "moderation"


async def test_a_second_gateway_on_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    async with served(tmp_path, "--files", str(folder)) as first:
        await first.ready()
        async with served(tmp_path, "--files", str(folder)) as second:
            assert await second.ended() == 1
            assert f"another gateway keeps its files in {folder}" in second.lines[-1]
