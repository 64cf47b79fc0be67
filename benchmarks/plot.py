"""The plots, in SVG by hand: bars for what forwarding costs by each way, and lines over time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

_COLOURS = ("#8a8f98", "#b3b7bd", "#6b9bd1", "#9d86c9", "#2e9e6b", "#6cc39b", "#d98b4a")
_WIDTH, _BAR, _GAP, _LEFT, _PANEL = 760, 18, 6, 150, 36
#: pixels of a panel of lines, without its title, and to its left
_HEIGHT, _MARGIN = 90, 60


def svg(panels: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Return a panel with a title for each mapping, a bar for each of its values; all of one panel on one scale."""
    parts: list[str] = []
    y = 8
    for title, values in panels.items():
        parts += _panel(title, values, unit, y)
        y += _PANEL + len(values) * (_BAR + _GAP)
    return _document(parts, y)


def lines(panels: Mapping[str, Sequence[float]]) -> str:
    """Return a panel for each series, a value for each step of time; each has its own scale from 0 to its largest."""
    parts: list[str] = []
    for number, (title, values) in enumerate(panels.items()):
        parts += _line(title, values, 8 + number * (_HEIGHT + _PANEL))
    return _document(parts, 8 + len(panels) * (_HEIGHT + _PANEL))


def _document(parts: Sequence[str], height: int) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join((head, f'<rect width="{_WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>", ""))


def _line(title: str, values: Sequence[float], y: int) -> Iterator[str]:
    largest, bottom = max(values, default=0.0) or 1.0, y + 24 + _HEIGHT
    step = (_WIDTH - _MARGIN - 20) / max(1, len(values) - 1)
    points = " ".join(f"{_MARGIN + i * step:.1f},{bottom - v / largest * _HEIGHT:.1f}" for i, v in enumerate(values))
    yield f'<text x="10" y="{y + 14}" font-weight="bold">{title}</text>'
    yield f'<text x="{_MARGIN - 8}" y="{y + 30}" text-anchor="end">{largest:.4g}</text>'
    yield f'<text x="{_MARGIN - 8}" y="{bottom}" text-anchor="end">0</text>'
    yield f'<path d="M{_MARGIN} {y + 24}V{bottom}H{_WIDTH - 20}" fill="none" stroke="{_COLOURS[0]}"/>'
    yield f'<polyline points="{points}" fill="none" stroke="{_COLOURS[4]}" stroke-width="2"/>'


def _panel(title: str, values: Mapping[str, float], unit: str, y: int) -> Iterator[str]:
    scale = (_WIDTH - _LEFT - 90) / max(values.values())
    yield f'<text x="10" y="{y + 18}" font-weight="bold">{title}</text>'
    for i, (name, value) in enumerate(values.items()):
        top, length = y + 28 + i * (_BAR + _GAP), max(1, round(value * scale))
        colour = _COLOURS[i + len(_COLOURS) - len(values)]
        yield f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{name}</text>'
        yield f'<rect x="{_LEFT}" y="{top}" width="{length}" height="{_BAR}" fill="{colour}"/>'
        yield f'<text x="{_LEFT + length + 6}" y="{top + 14}">{value:.0f} {unit}</text>'
