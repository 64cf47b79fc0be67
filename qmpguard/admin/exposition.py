"""The forms in which Prometheus is answered: which one a scraper asks for, and how a metric is written in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Encoder: TypeAlias = Callable[[Collector], bytes]

#: what scrapers ask for: every form that is answered. A version that a client has made up is answered as 1.0.0
_ASKED = (
    "",
    "application/openmetrics-text; version=1.0.0",
    "application/openmetrics-text",
    "text/plain; version=1.0.0",
)
_ESCAPINGS = ("", *(f"; escaping={way}" for way in ("allow-utf-8", "underscores", "dots", "values")))
_KINDS = frozenset(choose_encoder(asked + way)[1] for asked in _ASKED for way in _ESCAPINGS)


def encoder(accept: str) -> tuple[Encoder, str]:
    """Return the encoder that fits an Accept header, and the content type, of which there are few."""
    try:
        chosen = choose_encoder(accept)
    except (ValueError, TypeError):  # a version that is none
        return choose_encoder("")
    if chosen[1] in _KINDS:
        return chosen
    return choose_encoder("application/openmetrics-text" if "openmetrics" in chosen[1] else "")


class Few(Collector):
    """What an encoder takes: a few metrics, or none."""

    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._metrics


def lines(encode: Encoder, metric: Metric, *, head: bool = True) -> bytes:
    """Return a metric's lines; without ``head`` only the samples, as they follow those of other VMs."""
    lines = encode(Few(metric)).splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith(b"#") or (head and line != b"# EOF\n"))
