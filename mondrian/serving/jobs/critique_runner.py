"""One critique: by the arm that was planned, or by the base where that one cannot, and said so."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.parser import parse_critique
from mondrian.critique.prompt import row_messages
from mondrian.critique.rejection import Rejection
from mondrian.critique.schema import Critique, validate_critique
from mondrian.serving.assignment import AnswerPlan
from mondrian.serving.engines.base import (
    Completion,
    CritiqueRequest,
    Engine,
    EngineFault,
    ModelDied,
    NoAdapter,
    TextCallback,
    TimedOut,
)


@dataclass(frozen=True)
class ServedCritique:
    """A critique and who gave it.

    compliant  whether the text is a critique as it stands
    """

    advisor: str
    plan: AnswerPlan
    completion: Completion
    critique: Critique
    compliant: bool
    prompt: str
    adapter: str | None
    model: str


class CritiqueRunner:
    """Asks an engine in an advisor's name."""

    def __init__(self, engine: Engine, params: Params) -> None:
        self.engine, self.params = engine, params

    async def generate_critique(
        self,
        advisor: str,
        plan: AnswerPlan,
        picture: Image.Image,
        grow: TextCallback | None = None,
        stream: bool = False,
    ) -> ServedCritique:
        """A critique of a picture that `images.fit` made.

        Raises ModelDied or another EngineFault.
        """
        messages = row_messages(self.params.persona(advisor), "")[:-1]

        async def ask(by: AnswerPlan) -> Completion:
            return await self.engine.critique(
                CritiqueRequest(
                    advisor,
                    by.adapter,
                    messages,
                    picture,
                    self.params.serve.request_timeout_seconds,
                    grow,
                    stream,
                )
            )

        try:
            completion = await ask(plan)
        except (ModelDied, TimedOut):
            raise
        except EngineFault as error:
            if plan.arm == "base":
                raise
            plan = plan.fall_back_to_base(self._explain_adapter_failure(plan.adapter, error))
            if grow:
                grow("", 0)  # what was told so far is begun anew
            completion = await ask(plan)
        parsed = parse_completion(completion.text, advisor)
        if isinstance(parsed, Rejection):
            raise EngineFault(f"the answer is no critique ({parsed.reason}): {parsed.detail[:120]}")
        critique, compliant = parsed
        return ServedCritique(
            advisor,
            plan,
            completion,
            critique,
            compliant,
            "\n\n".join(message["content"] for message in messages),
            completion.folder if plan.arm == "fine_tuned" else None,
            self.engine.state.model,
        )

    def _explain_adapter_failure(self, name: str, error: EngineFault) -> str:
        """Why the adapter of that name did not answer."""
        adapter = self.engine.state.adapters.get(name)
        if adapter and adapter.fault:
            return adapter.fault
        reason = f"no adapter of {name} serves" if isinstance(error, NoAdapter) else str(error)
        return f"{reason}: answered by the base"


def parse_completion(text: str, advisor: str) -> tuple[Critique, bool] | Rejection:
    """A critique and whether its text is one as it stands; Rejected where none is in it."""
    try:
        return validate_critique(text), True
    except ValueError:
        parsed = parse_critique(text, advisor)
    return parsed if isinstance(parsed, Rejection) else (parsed.critique, False)
