"""The workers of a simulation: what they hold, the loads and the task that they are at, their deaths.

A worker does one thing at a time in the order asked: loads queue behind a task, a task behind loads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from bench.costs import Costs
from bench.simulate.accounts import Accounts
from bench.simulate.clock import Clock
from bench.simulate.config import FleetConfig
from bench.simulate.parts import Device, Loading, Task, Usage
from bench.simulate.views import with_stages, with_task
from planner.types import StageKey, WorkerView


class Workers:
    """`views` are what the planner sees, by id. `on_turn` is told of a task that has come to its turn on a
    worker, `on_loss` of one whose worker has died; `on_residency` when somebody holds something else."""

    def __init__(self, clock: Clock, costs: Costs, config: FleetConfig, accounts: Accounts) -> None:
        self.live: dict[str, Device] = {}
        self.dead: dict[str, Device] = {}
        self.views: dict[str, WorkerView] = {}
        self.n_deaths = 0
        self.on_turn: Callable[[Task], None] | None = None
        self.on_loss: Callable[[Task, Device], None] | None = None
        self.on_residency: Callable[[], None] | None = None
        self._clock = clock
        self._costs = costs
        self._config = config
        self._accounts = accounts
        self._degrees = tuple(degree for degree in costs.degrees if degree <= config.gpus_per_node)
        self._fates = Random(f"fates {config.seed}")
        for number in range(config.n_gpus):
            node, place = divmod(number, config.gpus_per_node)
            self._come_up(Device(f"n{node:03}g{place}", f"n{node:03}", WorkerView("", "", frozenset())), 0)

    def queue(self, device: Device, entry: Loading | Task) -> None:
        """To be done behind all that it was asked before. A task's gang begins it: see `on_turn`."""
        device.queue.append(entry)
        if isinstance(entry, Loading):
            self.show(device, with_stages(device.view, loading=device.view.loading | entry.keys))
            if len(device.queue) == 1:
                self._begin_load(device, entry)

    def leave(self, device: Device, task: Task) -> None:
        """It has the task no more, and goes on with what was asked behind it."""
        self._clock.changed = True
        was_head = device.queue[0] is task
        if task.place is not None:
            device.busy_s += self._clock.now_s - task.began_s
        device.queue.remove(task)
        self.show(device, with_task(device.view, None))
        if was_head:
            self._go_on(device)

    def show(self, device: Device, view: WorkerView) -> None:
        device.view = self.views[device.worker_id] = view

    def evict(self, device: Device, keys: frozenset[StageKey]) -> None:
        self.show(device, with_stages(device.view, resident=device.view.resident - keys))
        self._residency_changed()

    def weight_bytes(self, keys: frozenset[StageKey]) -> int:
        return sum(self._costs.models[model].view.weight_bytes[stage] for model, stage in keys)

    def kill(self, worker_id: str, at_s: float) -> None:
        """The worker dies at `at_s`, if it is alive then."""
        self._clock.at(at_s, self._die_by_name, worker_id)

    def residents(self) -> Mapping[frozenset[StageKey], int]:
        """How many live workers hold which stages."""
        counts: dict[frozenset[StageKey], int] = {}
        for view in self.views.values():
            counts[view.resident] = counts.get(view.resident, 0) + 1
        return counts

    def _go_on(self, device: Device) -> None:
        if not device.queue:
            return
        head = device.queue[0]
        if isinstance(head, Loading):
            self._begin_load(device, head)
        elif self.on_turn is not None:
            self.on_turn(head)

    def _begin_load(self, device: Device, loading: Loading) -> None:
        device.load_began_s = self._clock.now_s
        self._clock.at(self._clock.now_s + loading.seconds, self._loaded, device, device.life)

    def _loaded(self, device: Device, life: int) -> None:
        if life != device.life:
            return
        self._clock.changed = True
        loading = device.queue.popleft()
        assert isinstance(loading, Loading)
        device.busy_s += loading.seconds
        self._accounts.use(Usage.LOAD, loading.seconds)
        view, bound = device.view, self._costs.memory_bytes
        held, left = view.resident | loading.keys, view.loading - loading.keys
        if bound is not None and self.weight_bytes(held) > bound:
            self.show(device, with_stages(view, loading=left, failed=view.failed | loading.keys))
        else:
            self.show(device, with_stages(view, loading=left, resident=held))
            self._residency_changed()
        self._go_on(device)

    def _come_up(self, device: Device, _: int) -> None:
        self._clock.changed = True
        begins_warm = self._config.warm and device.life == 0
        self.dead.pop(device.worker_id, None)
        self.live[device.worker_id] = device
        view = WorkerView(
            worker_id=device.worker_id,
            node=device.node,
            resident=self._costs.stages if begins_warm else frozenset(),
            device=self._costs.device,
            memory_bytes=self._costs.memory_bytes,
            degrees=self._degrees,
        )
        self.show(device, view)
        self._residency_changed()
        if self._config.mean_life_s is not None:
            lives_s = self._fates.expovariate(1 / self._config.mean_life_s)
            self._clock.at(self._clock.now_s + lives_s, self._die, device, device.life)

    def _die_by_name(self, worker_id: str, _: int) -> None:
        if worker_id in self.live:
            self._die(self.live[worker_id], self.live[worker_id].life)

    def _die(self, device: Device, life: int) -> None:
        """What it held is gone, and its task for every member."""
        if life != device.life:
            return
        self._clock.changed = True
        self.n_deaths += 1
        if device.queue and isinstance(device.queue[0], Loading):
            lost_s = self._clock.now_s - device.load_began_s
            device.busy_s += lost_s
            self._accounts.use(Usage.LOST, lost_s)
        device.life += 1
        if (task := device.task) is not None and self.on_loss is not None:
            self.on_loss(task, device)
        device.queue.clear()
        del self.live[device.worker_id], self.views[device.worker_id]
        self.dead[device.worker_id] = device
        self._residency_changed()
        self._clock.at(self._clock.now_s + self._config.restart_s, self._come_up, device)

    def _residency_changed(self) -> None:
        if self.on_residency is not None:
            self.on_residency()
