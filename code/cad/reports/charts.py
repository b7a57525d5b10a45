"""Charts of a page as inline SVG that stretches to its place: strips of scores, intervals and curves.

An SVG is stretched in both directions while its strokes keep their width on the screen (`non-scaling-stroke`), and all
text is HTML beside it: so a chart is as readable on a phone as on a desk. Colours come from the style sheet.
"""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from statistics import median, quantiles

STRIP_HEIGHT = 56
DOT_STEP = 5.0  # pixels between two dots of a column of a strip, where there is room


def svg(kind: str, height: float, content: str, description: str) -> str:
    """An image 100 units wide with a description for those who do not see it; without one it is decoration."""
    role = f'role="img" aria-label="{escape(description)}"' if description else 'aria-hidden="true"'
    return f'<svg class="{kind}" viewBox="0 0 100 {height:g}" preserveAspectRatio="none" {role}>{content}</svg>'


def strip(scores: Sequence[float], label: str) -> str:
    """All scores of a method as dots over 0..1, with the middle half of them shaded and the median marked."""
    middle, columns = STRIP_HEIGHT / 2, Counter(min(99, max(0, int(score * 100))) for score in scores)
    step = min(DOT_STEP, (STRIP_HEIGHT - 4) / max(columns.values(), default=1))
    dots = "".join(
        f"M{column + 0.5:g} {middle + (row - (count - 1) / 2) * step:.4g}h0"
        for column, count in sorted(columns.items())
        for row in range(count)
    )
    if not scores:
        return svg("strip", STRIP_HEIGHT, "", f"{label}: no scores")
    low, centre, high = quartiles(scores)
    width = 100 * max(high - low, 0.002)
    content = (
        f'<rect class="half" x="{100 * low:.4g}" y="0" width="{width:.4g}" height="{STRIP_HEIGHT}"/>'
        f'<path class="dots" d="{dots}"/><path class="middle" d="M{100 * centre:.4g} 0v{STRIP_HEIGHT}"/>'
    )
    words = f"{label}: median {centre:.3f}, half of the images from {low:.3f} to {high:.3f}"
    return svg("strip", STRIP_HEIGHT, content, words)


def quartiles(scores: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of at least one score."""
    if len(scores) == 1:
        return scores[0], scores[0], scores[0]
    low, _, high = quantiles(scores, n=4, method="inclusive")
    return low, median(scores), high


def interval(value: float, ci: tuple[float, float] | None, limits: tuple[float, float]) -> str:
    """A value with its interval on a line over the limits, which hold 0, where a mark is."""
    low, high = ci or (value, value)
    width = limits[1] - limits[0]

    def place(number: float) -> float:
        return 4 + 92 * ((number - limits[0]) / width if width else 0.5)

    content = (
        f'<path class="zero" d="M{place(0):.4g} 0v16"/>'
        f'<path class="whisker" d="M{place(low):.4g} 8H{place(high):.4g}"/>'
        f'<path class="point" d="M{place(value):.4g} 8h0"/>'
    )
    return svg("interval", 16, content, "")


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round, evenly spaced numbers from at or below `low` to at or above `high`."""
    if high <= low:
        high = low + (abs(low) * 0.1 or 1)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def line_chart(
    title: str, curves: dict[str, tuple[list[int], list[float]]], ticks: list[float], epochs: int, marked: int
) -> str:
    """Curves over epochs 1 to `epochs`, with their values at the epoch `marked` as dots.

    Args:
        curves: CSS class ("train", "validation") -> (epochs, values).
        ticks: of the vertical axis, from bottom to top; see `nice_ticks`.
    """
    low, high = ticks[0], ticks[-1]

    def point(epoch: int, value: float) -> str:
        x = 100 * (epoch - 1) / (epochs - 1) if epochs > 1 else 50
        return f"{x:.4g} {100 - 100 * (value - low) / (high - low):.4g}"

    parts = [f'<path class="grid" d="M0 {100 - 100 * i / (len(ticks) - 1):.4g}H100"/>' for i in range(len(ticks))]
    for kind, (xs, ys) in curves.items():
        points = [point(x, y) for x, y in zip(xs, ys, strict=True)]
        if points:
            parts.append(f'<path class="line {kind}" d="M{"L".join(points)}{"h0" if len(points) == 1 else ""}"/>')
        parts += [f'<path class="dot {kind}" d="M{p}h0"/>' for x, p in zip(xs, points, strict=True) if x == marked]
    words = ", ".join(f"{kind} from {ys[0]:.3g} to {ys[-1]:.3g}" for kind, (_, ys) in curves.items() if ys)
    digits = next((digits for digits in range(9) if math.isclose(round(ticks[1] - low, digits), ticks[1] - low)), 9)
    labels = "".join(f"<span>{tick:.{digits}f}</span>" for tick in reversed(ticks))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<div class="ticks" aria-hidden="true">{labels}</div>'
        f"{svg('plot', 100, ''.join(parts), f'{title}: {words}')}"
        f'<div class="span" aria-hidden="true"><span>1</span><span>epoch</span><span>{epochs}</span></div></figure>'
    )
