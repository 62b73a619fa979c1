"""`GET /v1/files/{name}`: pictures that were asked for as URLs."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.keys import FILES


async def get_file(request: web.Request) -> web.StreamResponse:
    """The file, or the range of it that is asked for. Raises `FileUnknown`."""
    files = request.app[FILES]
    stored = files.find(request.match_info["name"])
    return web.FileResponse(
        stored.path,
        headers={
            hdrs.CONTENT_TYPE: stored.content_type,
            hdrs.CACHE_CONTROL: f"private, max-age={files.remaining_s(stored)}, immutable",
            hdrs.CONTENT_DISPOSITION: "inline",
            "X-Content-Type-Options": "nosniff",
        },
    )
