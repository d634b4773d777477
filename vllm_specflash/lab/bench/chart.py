"""Line charts as SVG that reads on a phone and in dark pages; no library draws the same bytes on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from jinja2 import Template

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 22, 46

PAGE = Template(
    """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{ width }} {{ height }}" role="img" font-family="sans-serif" font-size="15">
<title>{{ y_label }} against {{ x_label }}</title>
<rect width="{{ width }}" height="{{ height }}" rx="8" fill="#ffffff"/>
{% for y, label in y_ticks %}<path d="M{{ left }} {{ y }}H{{ right }}" stroke="{{ '#555555' if label == '1x' else '#dddddd' }}"/>
<text x="{{ left - 8 }}" y="{{ y + 5 }}" text-anchor="end" fill="#222222">{{ label }}</text>
{% endfor %}{% for x, label in x_ticks %}<text x="{{ x }}" y="{{ bottom + 20 }}" text-anchor="middle" fill="#222222">{{ label }}</text>
{% endfor %}<text x="{{ left + 6 }}" y="{{ 14 }}" fill="#555555" font-size="13">{{ y_label }}</text>
<text x="{{ (left + right) / 2 }}" y="{{ height - 6 }}" text-anchor="middle" fill="#222222">{{ x_label }}</text>
{% for line in lines %}<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="3"/>
{% for x, y, tip in line.dots %}<circle cx="{{ x }}" cy="{{ y }}" r="5" fill="{{ line.colour }}"><title>{{ tip }}</title></circle>
{% endfor %}<rect x="{{ right - 122 }}" y="{{ line.legend - 10 }}" width="14" height="4" fill="{{ line.colour }}"/>
<text x="{{ right - 100 }}" y="{{ line.legend - 3 }}" fill="#222222">{{ line.name }}</text>
{% endfor %}{% for x, y in marks %}<path d="M{{ x }} {{ y - 8 }}l8 8-8 8-8-8z" fill="#222222"/>
{% endfor %}</svg>
""",
    trim_blocks=False,
)


@dataclass(frozen=True)
class Line:
    """A name for the legend and a value for every point of the axis; None where there is none."""

    name: str
    values: Sequence[float | None]


def line_chart(
    points: Sequence[float], lines: Sequence[Line], x_label: str, y_label: str, marks: Sequence[tuple[float, float]] = (), even: bool = False
) -> str:
    """SVG of the lines over the points, from 0 to above the greatest value, in steps of one; values are speed-ups.

    Args:
        marks: further (point, value) pairs.
        even: points stand at equal distances, whatever their values.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    values = [value for line in lines for value in line.values if value is not None] + [value for _, value in marks]
    top = ceil(max(values) + 0.01)

    def x(point: float) -> float:
        share = points.index(point) / max(len(points) - 1, 1) if even else (point - points[0]) / ((points[-1] - points[0]) or 1)
        return round(LEFT + 20 + share * (right - LEFT - 40), 1)

    def y(value: float) -> float:
        return round(bottom - value / top * (bottom - TOP), 1)

    drawn = []
    for number, line in enumerate(lines):
        dots = [(x(p), y(v), f"{line.name}, {p:g}: {v:.2f}x") for p, v in zip(points, line.values, strict=True) if v is not None]
        drawn.append({
            "name": line.name, "colour": COLOURS[number % len(COLOURS)], "dots": dots, "legend": TOP + 18 + 20 * number,
            "points": " ".join(f"{at},{height}" for at, height, _ in dots),
        })  # fmt: skip
    return PAGE.render(
        width=WIDTH, height=HEIGHT, left=LEFT, right=right, bottom=bottom, x_label=x_label, y_label=y_label, lines=drawn,
        y_ticks=[(y(tick), f"{tick}x") for tick in range(top + 1)], x_ticks=[(x(point), f"{point:g}") for point in points],
        marks=[(x(point), y(value)) for point, value in marks],
    )  # fmt: skip
