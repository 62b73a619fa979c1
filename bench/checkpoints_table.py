"""The table of `python -m bench checkpoints`."""

from __future__ import annotations

from typing import Any

from bench.markdown import host_line, table


def checkpoints(result: dict[str, Any]) -> str:
    """Cost by family, and how soon pauses were obeyed."""
    late = [steps for row in result["families"] for steps in row["late_steps"]]
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
            ("", "checkpoint, bytes", "save, ms p50", "p95", "resume, ms p50", "p95", "one step, ms p50"),
            (
                (
                    row["family"],
                    f"{row['bytes']:,}",
                    *(f"{row[field][p]:.1f}" for field in ("save_ms", "resume_ms") for p in ("p50", "p95")),
                    f"{row['step_ms']['p50']:.1f}",
                )
                for row in result["families"]
            ),
        ),
        "",
        "*Save*: from the boundary to the message that names the checkpoint in the store. *Resume*: from the"
        " continuing task's submission to its first boundary; it holds reading the handoff and the"
        " checkpoint, the stage's preparation before its loop, and one step. Tiny random models of each"
        f" family, and the embedded model; {result['n']} pauses each, seed {result['seed']}.",
        "",
        host_line(result),
    ]
    return "\n".join([*lines, ""])
