"""A checkout with the real `launch.sh` and stand-ins for what it starts. Owns no assertion."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """
[project]
name = "triptych"
dependencies = []
[project.optional-dependencies]
bench = ["pytest>=1"]
test = ["triptych[bench]", "pytest-asyncio>=1"]
dev = ["triptych[test]", "mypy>=1"]
"""

# Says how it was started. `wait` in its arguments makes it stay until SIGTERM.
PROGRAM = """
import json, os, signal, sys
told = {
    "program": __spec__.name, "arguments": sys.argv[1:], "pid": os.getpid(), "folder": os.getcwd(),
    "threads": os.environ.get("OMP_NUM_THREADS"),
}
if "wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(json.dumps(told), flush=True)
if "wait" in sys.argv:
    signal.pause()
"""

CATALOGUE = """
import sys
if sys.argv[1:2] == ["names"]:
    print("triptych-emoji\\nother-model")
else:
    print("catalogue", *sys.argv[1:])
"""

# Answers `-c` as the real interpreter and writes down the modules that it is asked to run.
PYTHON = """#!/usr/bin/env bash
case $1 in
  -c)
    if [[ $2 == *version_info* ]]; then echo "${FAKE_VERSION:-3.11}"; else exec REAL "$@"; fi
    ;;
  -m)
    printf '%s\\n' "$*" >>"$FAKE_CALLS"
    if [[ $2 == venv ]]; then
      mkdir -p -- "$4/bin" && cp -- "$0" "$4/bin/python"
    elif [[ $2 == pip && -n ${FAKE_PIP_WORKS-} ]]; then
      exec REAL "$@"
    elif [[ $2 == pip ]]; then
      printf '%s\\n' "${FAKE_PIP_SAYS-}"
      if [[ -n ${FAKE_PIP_HANGS-} ]]; then exec sleep 60; fi
      exit "${FAKE_PIP_EXITS:-0}"
    else
      exec REAL "$@"
    fi
    ;;
esac
"""

# All that launch.sh may need besides bash and Python: coreutils.
TOOLS = (
    *("cat", "cp", "cut", "df", "dirname", "env", "mkdir", "nproc"),
    *("readlink", "rm", "rmdir", "seq", "sha256sum", "sleep", "tail", "tr"),
)


def _write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Checkout:
    """One checkout and the PATH that its launcher sees. The folder's name has a space on purpose."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check out"
        self.root.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.calls_file = folder / "calls"
        self.script = self.root / "launch.sh"
        shutil.copy(ROOT / "launch.sh", self.script)
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "constraints.txt").write_text("pytest==9.2.0\n")
        for package, text in {
            "gateway": PROGRAM,
            "bench": PROGRAM,
            "pytest": PROGRAM,
            "pipelines": CATALOGUE,
        }.items():
            (self.root / package).mkdir()
            (self.root / package / "__init__.py").touch()
            (self.root / package / "__main__.py").write_text(text)
        (self.root / "worker").mkdir()
        (self.root / "worker" / "check.py").write_text(PROGRAM)
        for tool in ["bash", *TOOLS]:
            found = shutil.which(tool)
            assert found, tool
            (self.programs / tool).symlink_to(found)
        self.environment = {
            "PATH": str(self.programs),
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "FAKE_CALLS": str(self.calls_file),
        }

    def add_program(self, name: str, text: str) -> None:
        """Puts a script on PATH, in place of the tool of that name if there is one."""
        (self.programs / name).unlink(missing_ok=True)
        _write_script(self.programs / name, text)

    def add_recording_python(self) -> None:
        """Puts a `python3` on PATH that makes environments of nothing and writes down its calls."""
        self.add_program("python3", PYTHON.replace("REAL", f"'{sys.executable}'"))

    def add_real_python(self) -> None:
        self.add_program("python3", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')

    def add_distribution(self, name: str, version: str) -> None:
        """Makes every environment here look as if it held this distribution."""
        folder = self.root.parent / "site"
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        self.environment["PYTHONPATH"] = str(folder)

    @property
    def calls(self) -> list[str]:
        """The modules run so far, in order, e.g. ["venv", "pip", "gateway"]."""
        if not self.calls_file.exists():
            return []
        return [line.split()[1] for line in self.calls_file.read_text().splitlines()]

    def command(self, *arguments: str | Path) -> list[str]:
        return [str(self.script), *map(str, arguments)]

    def launch(
        self, *arguments: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs launch.sh to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.root,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @contextmanager
    def started(
        self, *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Starts launch.sh in a process group of its own and ends the whole group with the block."""
        with subprocess.Popen(
            self.command(*arguments),
            cwd=self.root,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def network_less_pip(port: int) -> dict[str, str]:
    """The environment in which the real pip runs, with a closed port of this machine for its only index.

    One retry, since it is the retries that make pip tell of a failed connection at all.
    """
    return {
        "FAKE_PIP_WORKS": "1",
        "PIP_DRY_RUN": "1",  # the environment that it would install into is the one of these tests
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_RETRIES": "1",
    }
