"""How far a critique is, as its row tells it while it is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from mondrian.core.params import Params


@dataclass
class JobProgress:
    """`position` of `advisor_count` advisors that a job asks, and what this one has said so far."""

    advisor: str
    position: int = 1
    advisor_count: int = 1
    tokens: int = 0
    text: str = ""
    since: float = field(default_factory=monotonic)

    def progress_columns(self, params: Params) -> dict[str, Any]:
        """Columns of the row."""
        name, took = params.profile(self.advisor).name, max(1e-3, monotonic() - self.since)
        if not self.tokens:
            step, done, thinking = f"Summoning {name}...", 10, ""
        else:
            share = min(1.0, self.tokens / params.serve.max_new_tokens)
            step, done = f"Analyzing with {name}...", 30 + int(40 * share)
            rate = self.tokens / took
            thinking = f"Generating analysis... ({self.tokens} tokens, {rate:.1f} tps)"
        percentage = (100 * (self.position - 1) + done) // self.advisor_count
        return {"current_step": step, "progress_percentage": percentage, "llm_thinking": thinking}
