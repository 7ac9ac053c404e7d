"""Draw the pictures of docs/explanation/ as SVG.

    python scripts/site_pictures.py

Positions of points are drawn from a fixed seed: the pictures show the idea, not a measurement.
Intervals and KL are computed.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from vectomy.metrics.intervals import wilson_interval

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "explanation"
STYLE = """<style>
text{font:13px system-ui,"Liberation Sans",sans-serif;fill:#333}.s{font-size:11.5px;fill:#666}
.a{fill:#b4552d}.b{fill:#2d62a8}.la{stroke:#b4552d}.lb{stroke:#2d62a8}.l{stroke:#777}.g{stroke:#ccc}
.box{fill:#eef2f8;stroke:#8aa0c0}.hot{fill:#f8e6dc;stroke:#c4825f}line,path{fill:none}
@media (prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#aaa}.a{fill:#f0a070}.b{fill:#8ab4f8}
.la{stroke:#f0a070}.lb{stroke:#8ab4f8}.l{stroke:#999}.g{stroke:#555}
.box{fill:#26324a;stroke:#5f769c}.hot{fill:#4a3226;stroke:#b07a58}}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse"
markerWidth="11" markerHeight="11" orient="auto">
<path d="M0 0L8 4L0 8z" style="fill:#888"/></marker></defs>"""


def svg(width: int, height: int, title: str, *parts: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    )
    return "\n".join((head, f"<title>{title}</title>", STYLE, *parts, "</svg>", ""))


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def line(
    x: float, y: float, to_x: float, to_y: float, kind: str = "l", width: float = 1.5, more: str = ""
) -> str:
    place = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {place} class="{kind}" stroke-width="{width}" {more}/>'


def dot(x: float, y: float, kind: str, radius: float = 3) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}" fill-opacity=".75"/>'


def box(x: float, y: float, width: float, height: float, words: str, kind: str = "box") -> str:
    corner = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{kind}"/>'
    return corner + text(x + width / 2, y + height / 2 + 4.5, words)


def directions() -> str:
    """Two clouds, their means, and the difference of the means."""
    draw = random.Random(0)
    centres = {"b": (170, 190), "a": (380, 120)}
    parts = []
    for kind, (x, y) in centres.items():
        parts += [dot(x + draw.gauss(0, 38), y + draw.gauss(0, 38), kind) for _ in range(45)]
        parts.append(f'<circle cx="{x}" cy="{y}" r="6" class="{kind}"/>')
    (x, y), (to_x, to_y) = centres["b"], centres["a"]
    parts.append(line(x, y, to_x - 8, to_y + 3, "l", 3, 'marker-end="url(#arrow)"'))
    parts += [
        text(275, 128, "r"),
        text(120, 285, "harmless prompts", "b"),
        text(420, 30, "harmful prompts", "a"),
        text(270, 318, "activations of one layer at the last token, in two of its d_model dimensions", "s"),
    ]
    return svg(560, 330, "The difference of the means of two clouds of activations", *parts)


def writers() -> str:
    """The residual stream, what writes to it and what only reads."""
    parts = [
        line(60, 120, 610, 120, "l", 4, 'marker-end="url(#arrow)"'),
        text(600, 105, "residual stream", "s", "end"),
    ]
    parts += [
        box(20, 165, 90, 34, "embedding", "hot"),
        line(65, 165, 65, 126, "l", 1.5, 'marker-end="url(#arrow)"'),
    ]
    for x, name in ((170, "attention"), (380, "MLP")):
        parts += [
            line(x, 124, x, 162, "l", 1.5, 'marker-end="url(#arrow)"'),
            box(x - 40, 165, 80, 34, "q, k, v" if name == "attention" else "gate, up"),
            line(x + 40, 182, x + 68, 182, "l", 1.5, 'marker-end="url(#arrow)"'),
            box(x + 70, 165, 60, 34, "o" if name == "attention" else "down", "hot"),
            line(x + 100, 165, x + 100, 126, "l", 1.5, 'marker-end="url(#arrow)"'),
            text(x + 45, 222, name, "s"),
        ]
    parts += [
        box(20, 30, 22, 16, "", "hot"),
        text(50, 43, "writers: their outputs are added to the stream", "s", "start"),
        box(20, 54, 22, 16, ""),
        text(50, 67, "readers: never edited", "s", "start"),
    ]
    return svg(640, 240, "Writers and readers of the residual stream", *parts)


def dial() -> str:
    """One output vector at five strengths."""
    parts = []
    along, across = 78, 62
    for index, strength in enumerate((-1, 0, 0.5, 1, 2)):
        x, y = 90 + index * 125, 130
        rest = (1 - strength) * along
        parts += [
            line(x, y - 95, x, y + 95, "g", 1),
            line(x, y, x + across, y, "g", 1),
            line(x, y, x + across, y - rest * 0.55, "lb", 2.5, 'marker-end="url(#arrow)"'),
            line(x, y, x, y - rest * 0.55, "la", 2.5),
            text(x + 20, 248, f"strength {strength:g}"),
            text(
                x + 20,
                266,
                {-1: "doubled", 0: "the base", 0.5: "half", 1: "removed", 2: "reflected"}[strength],
                "s",
            ),
        ]
    parts += [text(82, 45, "r", "", "end")]
    return svg(680, 280, "A writer's output at five strengths; the part along r is orange", *parts)


def search() -> str:
    """The weight of KL rises; the states on the way make the frontier."""
    left, bottom, width, height = 60, 240, 240, 190
    points = [(0.05, 0.10), (0.05, 0.055), (0.09, 0.035), (0.2, 0.022), (0.42, 0.012), (0.68, 0.004)]
    parts = [line(left, bottom, left + width, bottom), line(left, bottom, left, bottom - height)]
    steps = [(s / 40, 0.06 if s < 14 else 0.06 * math.exp(0.105 * (s - 14))) for s in range(41)]
    curve = " ".join(f"{left + x * width:.1f},{bottom - min(y, 1) * height:.1f}" for x, y in steps)
    parts.append(f'<polyline points="{curve}" class="la" fill="none" stroke-width="2.5"/>')
    parts += [
        text(left + width / 2, bottom + 22, "step", "s"),
        text(left + 6, 40, "weight of KL", "a", "start"),
    ]
    left = 390
    parts += [line(left, bottom, left + width, bottom), line(left, bottom, left, bottom - height)]
    places = [(left + kl / 0.11 * width, bottom - rate / 0.9 * height) for rate, kl in points]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(
        f'<polyline points="{corners}" class="lb" fill="none" stroke-width="1.5" stroke-dasharray="4 3"/>'
    )
    parts += [dot(x, y, "b", 5) for x, y in places]
    x, y = places[1]
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" class="la" fill="none" stroke-width="2"/>',
        text(x, y - 26, "chosen", "a"),
        text(left + width / 2, bottom + 22, "KL per token", "s"),
        text(left + 6, 40, "refusals left", "b", "start"),
        line(left, bottom - 0.07 / 0.9 * height, left + width, bottom - 0.07 / 0.9 * height, "g", 1),
        text(left + width, bottom - 0.07 / 0.9 * height - 6, "target rate", "s", "end"),
    ]
    return svg(660, 280, "The weight of KL rises during the search; its states make a frontier", *parts)


def divergence(base: list[float], other: list[float]) -> float:
    """KL(base || other) in nats."""
    return sum(p * math.log(p / q) for p, q in zip(base, other, strict=True))


def moved(base: list[float], nats: float) -> list[float]:
    """The probabilities flattened as by a higher temperature, until KL is `nats`."""
    low, high = 0.0, 1.0
    result = base
    for _ in range(60):
        power = (low + high) / 2
        weights = [p**power for p in base]
        result = [weight / sum(weights) for weight in weights]
        low, high = (power, high) if divergence(base, result) > nats else (low, power)
    return result


def kl() -> str:
    """Next-token probabilities whose KL is 0.003, 0.03 and 0.3 nats."""
    base = [0.72, 0.14, 0.07, 0.04, 0.03]
    others = [moved(base, nats) for nats in (0.003, 0.03, 0.3)]
    parts = []
    for panel, other in enumerate(others):
        left, bottom = 40 + panel * 210, 175
        parts.append(line(left - 8, bottom, left + 170, bottom))
        for index, (p, q) in enumerate(zip(base, other, strict=True)):
            x = left + index * 33
            parts.append(
                f'<rect x="{x}" y="{bottom - p * 220:.1f}" width="13" height="{p * 220:.1f}" class="b"/>'
            )
            parts.append(
                f'<rect x="{x + 14}" y="{bottom - q * 220:.1f}" width="13" height="{q * 220:.1f}" class="a"/>'
            )
        parts.append(text(left + 80, bottom + 24, f"KL {divergence(base, other):.3g} nats"))
    parts += [
        text(40, 228, "blue: the base", "b", "start"),
        text(150, 228, "orange: edited", "a", "start"),
        text(640, 228, "probabilities of the five likeliest next tokens", "s", "end"),
    ]
    return svg(660, 240, "Next-token probabilities at three values of KL", *parts)


def intervals() -> str:
    """Wilson's 95% interval of some counts."""
    rows = [(0, 40), (1, 40), (3, 40), (33, 40), (0, 100), (3, 100), (0, 400)]
    left, width = 110, 440
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + share * width
        parts += [
            line(x, 20, x, 30 + len(rows) * 28, "g", 1),
            text(x, 48 + len(rows) * 28, f"{share:.0%}", "s"),
        ]
    for index, (count, total) in enumerate(rows):
        y = 38 + index * 28
        low, high = wilson_interval(count, total)
        parts += [
            line(left + low * width, y, left + high * width, y, "lb", 6, 'stroke-linecap="round"'),
            dot(left + count / total * width, y, "a", 5),
            text(left - 14, y + 4.5, f"{count} of {total}", "", "end"),
            text(
                left + high * width + 12, y + 4.5, f"{low:.1%}–{high:.1%}".replace("0.0%", "0%"), "s", "start"
            ),
        ]
    return svg(660, 270, "What a count of refusals says about the true rate", *parts)


PICTURES = {
    "directions": directions,
    "writers": writers,
    "dial": dial,
    "search": search,
    "kl": kl,
    "intervals": intervals,
}


def main() -> None:
    for name, picture in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
