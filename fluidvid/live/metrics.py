"""The Prometheus endpoint: `/metrics`, and `/health` for supervisors (200 while pictures leave, else 503)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fluidvid.errors import ConfigError

Sample = tuple[str, str, str, dict[str, str], float]
"""`(kind, name, help, labels, value)`; kind is `counter` or `gauge`."""


@dataclass(frozen=True)
class Health:
    """`healthy`, and in words why not."""

    healthy: bool
    text: str


class _Reader(Collector):
    """Asks the run at every scrape: the run itself keeps nothing for it."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for kind, name, text, labels, value in self._samples():
            family = families.get(name)
            if family is None:
                make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
                family = families[name] = make(f"fluidvid_{name}", text, labels=list(labels))
            family.add_metric(list(labels.values()), value)  # type: ignore[attr-defined]
        yield from families.values()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Log nothing: stderr is for the status line."""


class MetricsServer:
    """Serves until closed, in a thread of its own.

    Args:
        address: `HOST:PORT`; without a host the loopback address.
        samples: present values; called from the serving thread.
        health: present health; called from the serving thread.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, address: str, samples: Callable[[], Iterable[Sample]], health: Callable[[], Health]) -> None:
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Reader(samples))
        metrics = make_wsgi_app(registry)

        def serve(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/metrics":
                found: Iterable[bytes] = metrics(environ, start)
                return found
            if environ["PATH_INFO"] == "/health":
                state = health()
                start("200 OK" if state.healthy else "503 Service Unavailable", [("Content-Type", "text/plain")])
                return [(state.text + "\n").encode()]
            start("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/metrics and /health are here\n"]

        try:
            self._server = make_server(host or "127.0.0.1", int(port), serve, handler_class=_Quiet)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot serve metrics on {address} ({error}): choose another address") from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
