"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mondrian.serving.jobs.critique_runner import ServedCritique
from mondrian.storage.jobs import JobRow

_SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240)


class Metrics:
    """Counts of one service process, since its start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        more: Any = {"registry": self.registry}
        self.critiques = Counter(
            "mondrian_critiques",
            "Critiques by outcome.",
            ["advisor", "model_used", "version", "kind", "outcome"],
            **more,
        )
        self.fallbacks = Counter(
            "mondrian_fallbacks",
            "Answered by the base in place of an adapter.",
            ["advisor"],
            **more,
        )
        self.malformed = Counter(
            "mondrian_malformed",
            "Critiques that had to be repaired.",
            ["advisor", "model_used"],
            **more,
        )
        self.tokens = Counter("mondrian_tokens", "Tokens generated.", ["model_used"], **more)
        self.latency = Histogram(
            "mondrian_critique_seconds",
            "From arrival to critique.",
            ["model_used"],
            buckets=_SECONDS,
            **more,
        )
        self.first = Histogram(
            "mondrian_first_token_seconds",
            "From the model's start on it to its first token.",
            ["model_used", "prompt"],
            buckets=_SECONDS,
            **more,
        )
        self.thumbs = Counter("mondrian_thumbs", "What people say.", ["model_used", "up"], **more)
        self.refused = Counter("mondrian_refused", "Requests refused.", ["status"], **more)
        self.retries = Counter("mondrian_retries", "Critiques begun again.", ["reason"], **more)

    def count_critique(
        self, row: JobRow, used: str, outcome: str, version: str = "", advisor: str = ""
    ) -> None:
        """One critique more: completed, retried or failed."""
        who = advisor or ("several" if "," in row["advisor"] else row["advisor"])
        self.critiques.labels(who, used, version, row["kind"], outcome).inc()

    def record_completed_job(
        self, row: JobRow, answers: Sequence[ServedCritique], seconds: float
    ) -> None:
        """A job that has its answers."""
        for answer in answers:
            used = answer.plan.model_used
            self.count_critique(row, used, "completed", answer.completion.version, answer.advisor)
            self.tokens.labels(used).inc(answer.completion.tokens)
            if answer.plan.fell_back:
                self.fallbacks.labels(answer.advisor).inc()
            if not answer.compliant:
                self.malformed.labels(answer.advisor, used).inc()
            if answer.completion.first_token_seconds is not None:
                known = "warm" if answer.completion.warm else "cold"
                self.first.labels(used, known).observe(answer.completion.first_token_seconds)
        self.latency.labels(answers[0].plan.model_used).observe(seconds)

    def add_gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"mondrian_{name}", description, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
