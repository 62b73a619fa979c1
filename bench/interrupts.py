"""Ctrl-C and SIGTERM as a cancellation that leaves no gateway behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal stopped the work; what it had started is stopped too."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def run_interruptible(work: Coroutine[Any, Any, _T], say: Callable[[str], None]) -> _T:
    """Run `work` on an event loop of its own, from the main thread.

    A signal cancels it, a second one does so again. Raises `Interrupted` once it has ended.
    """
    return asyncio.run(_interruptible(work, say))


async def _interruptible(work: Coroutine[Any, Any, _T], say: Callable[[str], None]) -> _T:
    received: list[int] = []
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        if not received:
            say(f"{signal.Signals(number).name}: stopping the gateway")
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
