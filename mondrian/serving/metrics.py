"""Prometheus metrics of one service process, for /metrics."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mondrian.serving.jobs.critique_runner import ServedCritique
from mondrian.storage.jobs import JobRow

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"mondrian_{name}", description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, *labels: str) -> Histogram:
        name = f"mondrian_{name}_seconds"
        return Histogram(name, description, labels, buckets=_SECONDS, registry=self.registry)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """Add a value that is read at each scrape."""
        Gauge(f"mondrian_{name}", description, registry=self.registry).set_function(read)

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
