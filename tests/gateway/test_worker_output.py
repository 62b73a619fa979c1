"""What a real process prints comes to the log, in lines of ours."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

from gateway.logs import logging_to
from gateway.worker_output import WorkerOutput


async def told(script: str) -> list[dict[str, Any]]:
    stream = io.StringIO()
    with logging_to(stream, level="info", form="json"):
        output = WorkerOutput("cpu-0")
        try:
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", script, stdout=output.fd, stderr=output.fd
            )
        finally:
            output.close()
        await process.wait()
        await output.ended()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(line["worker"] == "cpu-0" and line["logger"] == "gateway.worker" for line in lines)
    return lines


async def test_both_streams_come_line_by_line() -> None:
    lines = await told("echo one; echo two >&2; echo; printf 'three and no end'")
    assert [line["message"] for line in lines] == ["one", "two", "three and no end"]


async def test_bars_of_progress_and_bytes_that_are_no_text() -> None:
    lines = await told("printf '10%%\\r50%%\\r100%%\\n\\377\\n'")
    assert [line["message"] for line in lines] == ["100%", "\ufffd"]


async def test_a_line_without_an_end_is_cut() -> None:
    lines = await told("head -c 10000 /dev/zero | tr '\\0' x")
    assert [len(line["message"]) for line in lines] == [4096, 4096, 1808]


async def test_a_process_that_cannot_be_started_leaves_no_thread() -> None:
    output = WorkerOutput("cpu-0")
    output.close()
    await output.ended()
    assert not output._thread.is_alive()
