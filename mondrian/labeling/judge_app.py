"""The page of `mondrian judge`: a photo, two critiques, one vote; then the outcome."""

from dataclasses import dataclass
from typing import cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from mondrian.labeling.judging import BlindChoice, JudgingSession
from mondrian.labeling.local_server import build_local_app, render_page

_CHOICES = ("left", "right", "equal")


@dataclass(frozen=True)
class JudgePages:
    """The routes of a session.

    title    of the advisor
    verdict  the headline of evaluate, for the outcome
    """

    session: JudgingSession
    title: str
    verdict: str

    def build_app(self) -> Starlette:
        return build_local_app(
            [
                Route("/", self.show),
                Route("/photo/{token}", self.send_photo),
                Route("/vote", self.vote, methods=["POST"]),
            ]
        )

    def show(self, request: Request) -> Response:
        session, blind = self.session, self.session.current
        if blind is None:
            return render_page(
                "outcome.html",
                title=self.title,
                preference=session.preference(),
                verdict=self.verdict,
            )
        return render_page(
            "judge.html",
            title=self.title,
            token=blind.token,
            critiques=blind.critiques,
            number=session.num_votes + 1,
            total=session.total,
            can_undo=session.can_undo,
        )

    def send_photo(self, request: Request) -> Response:
        blind = self.session.current
        if blind is None or blind.token != request.path_params["token"]:
            raise HTTPException(404, "There is no such photo.")
        return FileResponse(blind.pair.image, headers={"cache-control": "no-store"})

    async def vote(self, request: Request) -> Response:
        async with request.form(max_files=0) as values:
            vote = str(values.get("token")), str(values.get("choice"))
        await run_in_threadpool(self._vote, *vote)
        return RedirectResponse("/", 303)

    def _vote(self, token: str, choice: str) -> None:
        if choice in _CHOICES:
            self.session.vote(token, cast(BlindChoice, choice))
        elif choice == "skip":
            self.session.skip(token)
        elif choice == "undo":
            self.session.undo()
