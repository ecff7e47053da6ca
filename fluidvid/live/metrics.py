"""The Prometheus endpoint: `/metrics`, and `/health` for supervisors (200 while pictures leave, else 503)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fluidvid.errors import ConfigError
from fluidvid.live.pages import LOOPBACK, PageHandler, PageServer

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


def host_and_port(address: str) -> tuple[str, int]:
    """Of `HOST:PORT`; without a host the loopback address."""
    host, _, port = address.rpartition(":")
    return host or LOOPBACK, int(port)


class MetricsServer:
    """Serves until closed, in threads of its own.

    Args:
        address: see `host_and_port`.
        samples: present values; called from the serving threads.
        health: present health; called from the serving threads.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, address: str, samples: Callable[[], Iterable[Sample]], health: Callable[[], Health]) -> None:
        host, port = host_and_port(address)
        collectors = CollectorRegistry(auto_describe=False)
        collectors.register(_Reader(samples))

        class Handler(MetricsHandler, PageHandler):
            registry = collectors

            def do_GET(self) -> None:  # noqa: N802 - the base class calls it so
                path = urlsplit(self.path).path
                if path == "/metrics" and self.command == "GET":
                    super().do_GET()
                elif path == "/metrics":
                    self._answer(200, "")
                elif path == "/health":
                    state = health()
                    self._answer(200 if state.healthy else 503, state.text)
                else:
                    self._answer(404, "/metrics and /health are here")

            def do_HEAD(self) -> None:  # noqa: N802 - the base class calls it so
                self.do_GET()  # supervisors may ask so

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(f"{text}\n".encode())

        try:
            self._server = PageServer(host, port, Handler, name="metrics")
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot serve metrics on {address} ({error}): choose another address") from error
        self.port = self._server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.close()
