"""The table of `python -m bench checkpoints`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table


def checkpoints(result: dict[str, Any]) -> str:
    """Cost by family, and how soon pauses were obeyed."""
    late = [steps for row in result["families"] for steps in row["late_steps"]]
    models = result.get("model") or "Tiny random models of each family, and the embedded model"
    lines = [
        "# Checkpoints",
        "",
        result["question"],
        "",
        f"{len(late)} tasks were asked to pause at a random moment: **{sum(steps <= 1 for steps in late)}**"
        f" left at the next step boundary, the latest {max(late)} boundaries after. Every one, continued from"
        " its checkpoint, ended with the latents of a task that never paused, bit for bit.",
        "",
        *table(
            ("", "checkpoint, bytes", *(f"{name}, ms {p}" for name in _TIMES for p in ("p50", "p95")), _STEP),
            (
                (
                    row["family"],
                    f"{row['bytes']:,}",
                    *(f"{row[field][p]:.1f}" for field in _TIMES.values() for p in ("p50", "p95")),
                    f"{row['step_ms']['p50']:.1f}",
                )
                for row in result["families"]
            ),
        ),
        "",
        "*Left*: from asking for a pause to the message that names the checkpoint in the store; *save*: the"
        " part of it behind the boundary. *Resume*: from the continuing task's submission to its first"
        " boundary; it holds reading the handoff and the checkpoint, the stage's preparation before its loop,"
        f" and one step. {models};"
        f" {result['n']} pauses each, seed {result['seed']}.",
        "",
        host_line(result),
    ]
    return "\n".join([*lines, ""])


_TIMES = {"left": "asked_ms", "save": "save_ms", "resume": "resume_ms"}
_STEP = "one step, ms p50"
