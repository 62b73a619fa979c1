"""What aiohttp's application and requests carry for our handlers."""

from __future__ import annotations

from contextvars import ContextVar

from aiohttp import web

from gateway.files import FileStore
from gateway.loop import Engine

ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)
FILES: web.AppKey[FileStore] = web.AppKey("files", FileStore)
OPENAPI: web.AppKey[bytes] = web.AppKey("openapi", bytes)
REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Set for the task that handles a request: aiohttp has typed request keys only since 3.14."""
