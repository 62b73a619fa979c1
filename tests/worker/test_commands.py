"""The queue of commands: in order, the first one taken on a condition, closed for good."""

from __future__ import annotations

import threading

from tests.worker.driver import make_task
from wire.to_worker import EvictStages
from worker.commands import Command, CommandQueue


def test_first_in_first_out_and_on_a_condition() -> None:
    commands = CommandQueue()
    a, b, evict = make_task("a"), make_task("b"), EvictStages(model="tiny", stages=())
    assert commands.take_task(lambda task: True) is None
    for command in (a, b, evict, a):
        commands.put(command)
    assert commands.take_task(lambda task: task is b) is None
    assert commands.take() is a
    assert commands.take_task(lambda task: task is b) is b
    # what is no task stands before those behind it
    assert commands.take_task(lambda task: True) is None
    assert commands.take() is evict


def test_closed_drops_what_is_queued() -> None:
    commands = CommandQueue()
    commands.put(make_task("a"))
    commands.close()
    assert commands.take_task(lambda task: True) is None
    assert commands.take() is None


def test_who_waits_is_woken() -> None:
    commands, taken = CommandQueue(), list[Command | None]()
    threads = [threading.Thread(target=lambda: taken.append(commands.take())) for _ in range(2)]
    threads[0].start()
    commands.put(make_task("a"))
    threads[0].join(timeout=10)
    threads[1].start()
    commands.close()
    threads[1].join(timeout=10)
    assert [command is None for command in taken] == [False, True]
