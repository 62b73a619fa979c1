"""What befalls scripted workers, told beforehand."""

from __future__ import annotations

from pathlib import Path


class Fates:
    """What befalls the next task that reaches a stage; each fate is met once, in order.

    Fates: "die", "step+die", "write+die" (its file is there, nobody was told), "hang", "silent", "hold",
    "fail:KIND", "lie", "skip", "no_file", "others_file", "give_up", "numeric" (less than bitwise was kept),
    "no_room" (only the task's output is written),
    "checkpoint+die" and "checkpoint+hang" behind the next checkpoint, "numeric+die" behind one that kept
    less, "lost_checkpoint" and "others_checkpoint" (whose file is not there, or another task's, before it
    dies), "unasked" (it pauses), and, between the end of the stage and that of the task, "end+hang" and
    "end+hold", in which the worker goes on with the next task. "warm:STAGE" is a warm-up. "hello",
    "hello:WORKER", "describe", "load:STAGE", "forget", "measure" and "measure:WORKER" are met outside tasks;
    all but the first two can "hold" too, and a load can "pass". A measurement can be a "lie" or "nonsense".
    "STAGE of MODEL" is met by that model's alone. "together" is met by an encode that is a task of its own:
    so many are made in one batch with it.
    """

    def __init__(self, *fates: tuple[str, str]) -> None:
        self._fates = list(fates)

    def add(self, stage: str, fate: str) -> None:
        self._fates.append((stage, fate))

    def take(self, stage: str, model: str = "") -> str | None:
        for index, (where, fate) in enumerate(self._fates):
            if where in (stage, f"{stage} of {model}"):
                del self._fates[index]
                return fate
        return None


class FolderFates(Fates):
    """Fates as files "NN,STAGE,FATE" of a folder: shared by processes and their successors."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def take(self, stage: str, model: str = "") -> str | None:
        for file in sorted(self._folder.iterdir()):
            _, where, fate = file.name.split(",")
            if where in (stage, f"{stage} of {model}"):
                file.unlink()
                return fate
        return None
