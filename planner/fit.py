"""Costs of shapes that were never run: a polynomial in tokens through those that were.

a + b t + c t^2, none of them below 0: what every stage pays, what each token costs, what attention over all
tokens costs. Relative least squares, because a small shape's error counts as much as a large one's. With two
token counts c is 0, with one a is 0 too. Three unknowns have seven sets that may be above 0, so the best of
the seven plain least squares is the constrained optimum, and no solver is needed.

Source: non-negative least squares, C. L. Lawson and R. J. Hanson, Solving Least Squares Problems (1974).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[int, float]
"""Tokens, and what was measured at them, at least 0."""

_POWERS: tuple[tuple[int, ...], ...] = ((1,), (0,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
"""Which terms may be above 0, simple ones first: they win a tie."""

_ALLOWED: dict[int, frozenset[int]] = {1: frozenset({1}), 2: frozenset({0, 1})}
"""Powers by how many token counts there are; all of them from three on."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What `at` says is `coefficients` of t^0, t^1 and t^2.

    Its errors are relative, at each token count when fitted to all others; None with a single one.
    """

    coefficients: tuple[float, float, float]
    worst_error: float | None = None
    median_error: float | None = None

    def at(self, tokens: int) -> float:
        """What is expected at so many tokens."""
        constant, linear, quadratic = self.coefficients
        return constant + (linear + quadratic * tokens) * tokens


def fitted(points: Sequence[Point]) -> Fit:
    """Through at least one point; where the points are all 0, so is the fit."""
    coefficients = _coefficients(points)
    counts = sorted({tokens for tokens, _ in points})
    if len(counts) < 2:
        return Fit(coefficients)
    errors = []
    for left_out in counts:
        others = Fit(_coefficients([point for point in points if point[0] != left_out]))
        errors += [abs(others.at(t) / y - 1) for t, y in points if t == left_out and y > 0]
    if not errors:
        return Fit(coefficients)
    return Fit(coefficients, max(errors), statistics.median(errors))


def _coefficients(points: Sequence[Point]) -> tuple[float, float, float]:
    # tokens reach 10^9, whose fourth power next to 1 is more than a float resolves
    scale_t, scale_y = max(t for t, _ in points), max(y for _, y in points)
    if scale_y <= 0:
        return 0.0, 0.0, 0.0
    allowed = _ALLOWED.get(len({t for t, _ in points}), frozenset({0, 1, 2}))
    # a point of 0 has no relative error; it weighs as a thousandth of the largest would
    rows = [(t / scale_t, max(y / scale_y, 1e-3)) for t, y in points]
    best, best_error = (0.0, 0.0, 0.0), float("inf")
    for powers in _POWERS:
        if not allowed.issuperset(powers):
            continue
        solution = _least_squares([[t**power / y for power in powers] for t, y in rows])
        if solution is None or min(solution) < 0:
            continue
        terms = dict(zip(powers, solution, strict=True))
        error = sum((sum(x * t**p for p, x in terms.items()) / y - 1) ** 2 for t, y in rows)
        if error < best_error - 1e-12:
            scaled = [terms.get(power, 0.0) * scale_y / scale_t**power for power in range(3)]
            best, best_error = (scaled[0], scaled[1], scaled[2]), error
    return best


def _least_squares(rows: list[list[float]]) -> list[float] | None:
    """x with the least |rows x - 1|^2, None where the columns depend on each other."""
    n = len(rows[0])
    # the normal equations with their right side as the last column, by Gauss and Jordan with pivoting
    system = [
        [sum(r[i] * r[j] for r in rows) for j in range(n)] + [sum(r[i] for r in rows)] for i in range(n)
    ]
    for column in range(n):
        pivot = max(range(column, n), key=lambda i: abs(system[i][column]))
        if abs(system[pivot][column]) <= 1e-12 * max(abs(x) for x in system[pivot]):
            return None
        system[column], system[pivot] = system[pivot], system[column]
        system[column] = [x / system[column][column] for x in system[column]]
        for i in range(n):
            if i != column:
                factor = system[i][column]
                system[i] = [x - factor * y for x, y in zip(system[i], system[column], strict=True)]
    return [row[n] for row in system]
