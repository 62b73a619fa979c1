"""What aiohttp's application and requests carry for our handlers."""

from __future__ import annotations

from aiohttp import web

from gateway.loop import Engine

ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
CREATED: web.AppKey[int] = web.AppKey("created", int)
REQUEST_ID = "request_id"
