"""Frontiers of several searches as one SVG: refusals on test prompts against the damage on harmless
ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

COLOURS = {"vectomy": "#0b6e4f", "heretic": "#b23a48"}
SHAPES = {0: "circle", 1: "square", 2: "triangle"}
WIDTH, HEIGHT, LEFT, TOP, PANEL, GAP, FOOT = 860, 400, 60, 40, 350, 70, 300
TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def frontier(points: Sequence[dict[str, Any]], damage: str, count: str = "refusals") -> list[dict[str, Any]]:
    """The points that no other point beats in both, fewest refusals first."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: (p["test"][count], p["test"][damage])):
        if not best or point["test"][damage] < best[-1]["test"][damage]:
            best.append(point)
    return best


def picture(points: Sequence[dict[str, Any]], base_refusals: int, total: int) -> str:
    """Two panels, KL per token and KL of the first token; a line a seed through the points nothing
    of its seed beats.
    """
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for number, (damage, name) in enumerate(
        (("kl_per_token", "KL per token"), ("kl_first_token", "KL of first token"))
    ):
        parts += _panel(points, damage, f"{name}, nats", LEFT + number * (PANEL + GAP), base_refusals, total)
    parts += _legend(points)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    points: Sequence[dict[str, Any]], damage: str, name: str, left: float, base_refusals: int, total: int
) -> list[str]:
    values = [point["test"][damage] for point in points]
    low, high = math.log(min(values) / 1.3), math.log(max(values) * 1.3)
    top = max(point["test"]["refusals"] for point in points) * 1.1 + 1

    def at(value: float, refusals: float) -> tuple[float, float]:
        return left + (math.log(value) - low) / (high - low) * PANEL, TOP + FOOT - refusals / top * FOOT

    grey = 'stroke="#ddd"'
    parts = [_text(left + PANEL / 2, TOP + FOOT + 38, name, "middle")]
    for tick in (tick for tick in TICKS if low <= math.log(tick) <= high):
        x, _ = at(tick, 0)
        parts += [
            f'<path d="M{x:.1f} {TOP}v{FOOT}" {grey}/>',
            _text(x, TOP + FOOT + 18, f"{tick:g}", "middle"),
        ]
    for tick in range(0, int(top) + 1, 5 if top <= 40 else 20):
        _, y = at(math.exp(low), tick)
        parts += [f'<path d="M{left} {y:.1f}h{PANEL}" {grey}/>', _text(left - 6, y + 4, str(tick), "end")]
    parts.append(_text(left - 40, TOP - 16, f"refusals of {total} (base: {base_refusals})", "start"))
    for tool, colour in COLOURS.items():
        for seed in sorted({point["seed"] for point in points if point["tool"] == tool}):
            own = [point for point in points if point["tool"] == tool and point["seed"] == seed]
            line = [at(p["test"][damage], p["test"]["refusals"]) for p in frontier(own, damage)]
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
            parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-opacity="0.6"/>')
            parts += [_mark(*at(p["test"][damage], p["test"]["refusals"]), seed, colour) for p in own]
    return parts


def _legend(points: Sequence[dict[str, Any]]) -> list[str]:
    parts, x = [], float(LEFT)
    for tool, colour in COLOURS.items():
        for seed in sorted({point["seed"] for point in points if point["tool"] == tool}):
            parts += [
                _mark(x, HEIGHT - 12, seed, colour),
                _text(x + 9, HEIGHT - 8, f"{tool}, seed {seed}", "start"),
            ]
            x += 125
    return parts


def _mark(x: float, y: float, seed: int, colour: str) -> str:
    shape = SHAPES.get(seed % len(SHAPES))
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    if shape == "square":
        return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}"/>'
    return f'<path d="M{x:.1f} {y - 4.5:.1f}l4.5 8h-9z" fill="{colour}"/>'


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'
