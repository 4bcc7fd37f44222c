"""One critique: by the arm that was planned, or by the base where that one cannot, and said so."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.parser import recover
from mondrian.critique.prompt import row_messages
from mondrian.critique.rejection import Rejected
from mondrian.critique.schema import Critique, parse
from mondrian.serving.assignment import Plan
from mondrian.serving.engines.base import (
    Engine,
    EngineFault,
    Grow,
    ModelDied,
    NoAdapter,
    Question,
    TimedOut,
    Told,
)


@dataclass(frozen=True)
class Answer:
    """A critique and who gave it.

    compliant  whether the text is a critique as it stands
    """

    advisor: str
    plan: Plan
    told: Told
    critique: Critique
    compliant: bool
    prompt: str
    adapter: str | None
    model: str


class Critic:
    """Asks an engine in an advisor's name."""

    def __init__(self, engine: Engine, params: Params) -> None:
        self.engine, self.params = engine, params

    async def answer(
        self, advisor: str, plan: Plan, picture: Image.Image,
        grow: Grow | None = None, stream: bool = False,
    ) -> Answer:  # fmt: skip
        """A critique of a picture that `images.fit` made.

        Raises ModelDied or another EngineFault.
        """
        messages = row_messages(self.params.persona(advisor), "")[:-1]

        async def ask(by: Plan) -> Told:
            return await self.engine.critique(Question(
                advisor, by.adapter, messages, picture,
                self.params.serve.critique_seconds, grow, stream,
            ))  # fmt: skip

        try:
            told = await ask(plan)
        except (ModelDied, TimedOut):
            raise
        except EngineFault as error:
            if plan.arm == "base":
                raise
            plan = plan.fallen_back(self._why(plan.adapter, error))
            if grow:
                grow("", 0)  # what was told so far is begun anew
            told = await ask(plan)
        found = understood(told.text, advisor)
        if isinstance(found, Rejected):
            raise EngineFault(f"the answer is no critique ({found.reason}): {found.detail[:120]}")
        critique, compliant = found
        return Answer(
            advisor, plan, told, critique, compliant,
            "\n\n".join(message["content"] for message in messages),
            told.folder if plan.arm == "fine_tuned" else None,
            self.engine.state.model,
        )  # fmt: skip

    def _why(self, name: str, error: EngineFault) -> str:
        """Why the adapter of that name did not answer."""
        found = self.engine.state.adapters.get(name)
        if found and found.fault:
            return found.fault
        told = f"no adapter of {name} serves" if isinstance(error, NoAdapter) else str(error)
        return f"{told}: answered by the base"


def understood(text: str, advisor: str) -> tuple[Critique, bool] | Rejected:
    """A critique and whether its text is one as it stands; Rejected where none is in it."""
    try:
        return parse(text), True
    except ValueError:
        found = recover(text, advisor)
    return found if isinstance(found, Rejected) else (found.critique, False)
