"""Prometheus metrics of one service process, for /metrics."""

from collections.abc import Callable, Sequence
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mondrian.serving.jobs.critique_runner import ServedCritique
from mondrian.storage.jobs import JobRow

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_HTTP_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 15, 60, 240)
_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.build = Info("mondrian_build", "Version and base.", registry=self.registry)
        labels = ("advisor", "model_used", "version", "kind", "outcome")
        self.critiques = self._counter("critiques", "Critiques by outcome.", *labels)
        self.fallbacks = self._counter("fallbacks", "Fallbacks to the base.", "advisor")
        self.malformed = self._counter("malformed", "Repaired critiques.", "advisor", "model_used")
        self.tokens = self._counter("tokens", "Tokens generated.", "model_used")
        self.thumbs = self._counter("thumbs", "Thumbs of people.", "model_used", "up")
        self.refused = self._counter("refused", "Requests refused.", "status")
        self.retries = self._counter("retries", "Critiques started again.", "reason")
        self.latency = self._histogram("critique", "Until the critique.", "model_used")
        self.first_token = self._histogram(
            "first_token", "Until the first token.", "model_used", "prompt"
        )
        self.queue_time = self._histogram("queue", "Until a slot was free.", "kind")
        self.service_time = self._histogram("service", "From a slot to the critique.", "kind")
        self.queued_jobs = self._gauge("queued_jobs", "Queued jobs in the database.")
        self.requests = self._counter(
            "http_requests", "HTTP requests.", "method", "route", "status"
        )
        self.request_time = self._histogram(
            "http_request", "Until the end of the response.", "route", buckets=_HTTP_SECONDS
        )

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"mondrian_{name}", description, labels, registry=self.registry)

    def _histogram(
        self, name: str, description: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        name = f"mondrian_{name}_seconds"
        return Histogram(name, description, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, description: str) -> Gauge:
        return Gauge(f"mondrian_{name}", description, registry=self.registry)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a value that is read at each scrape."""
        self._gauge(name, description).set_function(read)

    def count_critique(
        self, row: JobRow, model_used: str, outcome: str, version: str = "", advisor: str = ""
    ) -> None:
        advisor = advisor or ("several" if "," in row["advisor"] else row["advisor"])
        self.critiques.labels(advisor, model_used, version, row["kind"], outcome).inc()

    def record_completed_job(
        self, row: JobRow, critiques: Sequence[ServedCritique], seconds: float
    ) -> None:
        for critique in critiques:
            advisor, completion = critique.advisor, critique.completion
            model_used = critique.plan.model_used
            self.count_critique(row, model_used, "completed", completion.version, advisor)
            self.tokens.labels(model_used).inc(completion.tokens)
            if critique.plan.fell_back:
                self.fallbacks.labels(advisor).inc()
            if not critique.compliant:
                self.malformed.labels(advisor, model_used).inc()
            prompt = "warm" if completion.warm else "cold"
            self.first_token.labels(model_used, prompt).observe(completion.first_token_seconds)
        self.latency.labels(critiques[0].plan.model_used).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class HttpMetricsMiddleware:
    """Counts requests by route and status; a request that reaches no route is of route "none"."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 0, perf_counter()

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.request_time.labels(route).observe(perf_counter() - started)
