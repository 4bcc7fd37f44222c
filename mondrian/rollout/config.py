"""rollout.yaml as checked types; every key is explained there."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mondrian.core.params_section import Section, load_yaml

Share = Annotated[float, Field(ge=0, le=1)]


class RolloutStep(Section):
    share: Annotated[float, Field(gt=0, le=1)]
    hours: Annotated[float, Field(ge=0)]
    jobs: Annotated[int, Field(ge=0)]
    requires: Literal["guardrails", "not_worse", "better"]


class SuccessCriterion(Section):
    metric: Literal["approval", "acceptance", "correction"]
    margin: Annotated[float, Field(ge=0)]


class GuardrailLimits(Section):
    compliance: Share
    latency_p95_seconds: Annotated[float, Field(gt=0)]
    failures: Share
    fallbacks: Share
    thumbs_down: Share


class RolloutConfig(Section):
    baseline: Literal["previous", "base"]
    automatic: bool
    check_interval_seconds: Annotated[float, Field(ge=0.1)]
    max_hours: Annotated[float, Field(gt=0)]
    steps: Annotated[list[RolloutStep], Field(min_length=1)]
    success: SuccessCriterion
    guardrails: GuardrailLimits

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        shares = [step.share for step in self.steps]
        if shares != sorted(set(shares)):
            raise ValueError(f"the shares of the steps must increase, they are {shares}")
        if shares[-1] != 1:
            raise ValueError(f"the share of the last step is {shares[-1]:g}; it must be 1.0")
        if self.steps[-1].requires != "guardrails":
            raise ValueError(
                f"the last step requires {self.steps[-1].requires}; it must require guardrails, "
                "because there is no other arm to compare with"
            )
        return self


def load_rollout_config(path: Path) -> RolloutConfig:
    """Return the checked rollout.yaml. Raises ParamsError naming all problems at once."""
    return load_yaml(path, RolloutConfig)
