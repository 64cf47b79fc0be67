"""The exposition formats of Prometheus: the choice by the Accept header, and a metric's text in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Encoder: TypeAlias = Callable[[Collector], bytes]

#: the formats that are served; an unknown version is answered as 1.0.0
_ASKED = (
    "",
    "application/openmetrics-text; version=1.0.0",
    "application/openmetrics-text",
    "text/plain; version=1.0.0",
)
_ESCAPINGS = ("", *(f"; escaping={way}" for way in ("allow-utf-8", "underscores", "dots", "values")))
_KINDS = frozenset(choose_encoder(asked + way)[1] for asked in _ASKED for way in _ESCAPINGS)


def encoder(accept: str) -> tuple[Encoder, str]:
    """Return the encoder for an Accept header, and the content type, one of `_KINDS`."""
    try:
        chosen = choose_encoder(accept)
    except (ValueError, TypeError):  # an invalid version
        return choose_encoder("")
    if chosen[1] in _KINDS:
        return chosen
    return choose_encoder("application/openmetrics-text" if "openmetrics" in chosen[1] else "")


class MetricGroup(Collector):
    """A collector of given metrics, for an encoder."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._metrics


def lines(encode: Encoder, metric: Metric, *, head: bool = True) -> bytes:
    """Return a metric's lines; without ``head`` only its samples, to follow those of other VMs."""
    lines = encode(MetricGroup(metric)).splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"#") or (head and line != b"# EOF\n"))
