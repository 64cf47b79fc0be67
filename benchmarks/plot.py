"""The plot: bars for what forwarding costs by each way, in SVG by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_COLOURS = ("#8a8f98", "#b3b7bd", "#6b9bd1", "#9d86c9", "#2e9e6b", "#6cc39b", "#d98b4a")
_WIDTH, _BAR, _GAP, _LEFT, _PANEL = 760, 18, 6, 150, 36


def svg(panels: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Return a panel with a title for each mapping, a bar for each of its values; all of one panel on one scale."""
    parts: list[str] = []
    y = 8
    for title, values in panels.items():
        parts += _panel(title, values, unit, y)
        y += _PANEL + len(values) * (_BAR + _GAP)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="13">'
    )
    return "\n".join((head, f'<rect width="{_WIDTH}" height="{y}" fill="white"/>', *parts, "</svg>", ""))


def _panel(title: str, values: Mapping[str, float], unit: str, y: int) -> Iterator[str]:
    scale = (_WIDTH - _LEFT - 90) / max(values.values())
    yield f'<text x="10" y="{y + 18}" font-weight="bold">{title}</text>'
    for i, (name, value) in enumerate(values.items()):
        top, length = y + 28 + i * (_BAR + _GAP), max(1, round(value * scale))
        colour = _COLOURS[i + len(_COLOURS) - len(values)]
        yield f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{name}</text>'
        yield f'<rect x="{_LEFT}" y="{top}" width="{length}" height="{_BAR}" fill="{colour}"/>'
        yield f'<text x="{_LEFT + length + 6}" y="{top + 14}">{value:.0f} {unit}</text>'
