"""Progress of a running job, as clients and pages show it."""

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from mondrian.core.params import Params
from mondrian.critique.schema import DIMENSIONS

_CRITIQUE_FIELDS = (  # of these, each dimension has a recommendation
    "image_description recommendation overall_score key_strengths priority_improvements "
    "technical_notes"
).split()


@dataclass
class JobProgress:
    """Progress of a job: `advisor` is number `position` of `advisor_count`."""

    advisor: str
    position: int = 1
    advisor_count: int = 1
    tokens: int = 0
    text: str = ""
    started: float = field(default_factory=monotonic)

    def progress_columns(self, params: Params) -> dict[str, Any]:
        name, seconds = params.profile(self.advisor).name, max(1e-3, monotonic() - self.started)
        if self.tokens:
            fraction = min(1.0, self.tokens / params.serve.max_new_tokens)
            step, percent = f"Analyzing with {name}...", 30 + int(40 * fraction)
            rate = self.tokens / seconds
            thinking = f"Generating analysis... ({self.tokens} tokens, {rate:.1f} tps)"
        else:
            step, percent, thinking = f"Summoning {name}...", 10, ""
        percentage = (100 * (self.position - 1) + percent) // self.advisor_count
        return {"current_step": step, "progress_percentage": percentage, "llm_thinking": thinking}

    def page_percentage(self) -> int:
        """Return how far the job is, by the fields of the critiques that are written."""
        written = sum(self.text.count(f'"{field}"') for field in _CRITIQUE_FIELDS)
        share = 0.05 + 0.9 * min(1.0, written / (len(DIMENSIONS) + len(_CRITIQUE_FIELDS) - 1))
        return int(100 * (self.position - 1 + share) / self.advisor_count)
