"""The pages of `mondrian label`: all photos, and one photo with the form of its critique."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mondrian.core.errors import PhotoError
from mondrian.critique.schema import DIMENSIONS, MAX_LONG_TEXT
from mondrian.labeling.critique_form import OPTIONAL, REQUIRED, CritiqueForm
from mondrian.labeling.local_server import (
    build_local_app,
    render_page,
    respond_with_error,
    wants_json,
)
from mondrian.labeling.photo_images import SIDES
from mondrian.labeling.session import (
    ChangedElsewhereError,
    FormErrors,
    LabelingSession,
    LabelPhoto,
    Writer,
)
from mondrian.serving.http.exposure import parse_exposure, read_exposure

_IMAGE_HEADERS = {"cache-control": "private, max-age=3600"}  # its URL has the hash of the photo
_ACTIONS = ("finish", "skip", "draft", "keep")
_NO_ERRORS = FormErrors()


@dataclass(frozen=True)
class LabelPages:
    """The routes of a session.

    title       of the advisor
    skipped     names and reasons of files that are no photos for this page
    next_steps  commands that use the list
    """

    session: LabelingSession
    title: str
    skipped: list[tuple[str, str]]
    next_steps: list[str]

    def build_app(self) -> Starlette:
        return build_local_app(
            [
                Route("/", self.show_photos),
                Route("/photo/{id}", self.send_photo),
                Route("/critique/{id}", self.show_form),
                Route("/critique/{id}", self.change, methods=["POST"]),
                Route("/critique/{id}/draft", self.send_draft_state),
            ]
        )

    def show_photos(self, request: Request) -> Response:
        states = self.session.states()
        return render_page(
            "photos.html",
            title=self.title,
            photos=[(photo, states[id]) for id, photo in self.session.photos.items()],
            faults=self.session.images.faults,
            counts=self.session.counts(),
            following=self.session.next_open(),
            skipped=self.skipped,
            next_steps=self.next_steps,
            list_path=self.session.critiques.path,
        )

    def send_photo(self, request: Request) -> Response:
        photo, size = self._find(request), request.query_params.get("size", "page")
        images = self.session.images
        if size not in ("thumb", *SIDES):
            raise HTTPException(404, "There is no such size.")
        try:
            if size == "thumb" and (content := images.thumbnail(photo.file)):
                return Response(content, 200, _IMAGE_HEADERS, "image/jpeg")
            content = images.render(photo.file, "page" if size == "thumb" else size)
        except PhotoError as error:
            raise HTTPException(422, f"{error.reason}: {error}") from None
        return Response(content, 200, _IMAGE_HEADERS, "image/jpeg")

    def show_form(self, request: Request) -> Response:
        return self._render_form(self._find(request), request.query_params.get("saved", ""))

    async def change(self, request: Request) -> Response:
        photo = self._find(request)
        async with request.form(max_files=0) as form:
            values = {name: str(value) for name, value in form.items()}
        if values.get("action") not in _ACTIONS:  # also a body that did not arrive completely
            raise HTTPException(400, "The form did not arrive completely. Send it again.")
        return await run_in_threadpool(self._change, request, photo, values)

    def send_draft_state(self, request: Request) -> Response:
        drafts = self.session.drafts
        is_ready = self.session.find_draft(self._find(request)) is not None
        is_expected = drafts is not None and drafts.is_running and not drafts.fault
        return JSONResponse({"ready": is_ready, "expected": is_expected})

    def _find(self, request: Request) -> LabelPhoto:
        photo = self.session.photos.get(request.path_params["id"])
        if photo is None:
            raise HTTPException(404, "There is no such photo in this folder.")
        return photo

    def _change(self, request: Request, photo: LabelPhoto, values: Mapping[str, Any]) -> Response:
        session, form = self.session, CritiqueForm.from_input(values)
        writer = Writer(str(values.get("tab", "")), str(values.get("seen", "")))
        action = values["action"]
        errors = _NO_ERRORS
        try:
            if action == "finish":
                errors = session.finish(photo, form, writer)
            elif action in ("skip", "draft"):
                (session.skip if action == "skip" else session.use_draft)(photo, form, writer)
            else:
                session.keep(photo, form, writer)
        except ChangedElsewhereError as error:
            return respond_with_error(request, 409, str(error))
        if wants_json(request):
            return JSONResponse({"missing": form.num_missing(), "mean": form.mean()})
        if errors:
            return self._render_form(photo, errors=errors)
        if action in ("finish", "skip"):
            following = session.next_open(photo.id)
            state = "saved" if action == "finish" else "skipped"
            path = f"/critique/{following.id}?{state}={photo.id}" if following else "/"
            return RedirectResponse(path, 303)
        return RedirectResponse(f"/critique/{photo.id}", 303)

    def _render_form(
        self, photo: LabelPhoto, saved: str = "", errors: FormErrors = _NO_ERRORS
    ) -> Response:
        session, ids = self.session, list(self.session.photos)
        index, view = ids.index(photo.id), session.view(photo)
        following = session.next_open(photo.id)
        previous_saved = session.photos.get(saved)
        drafts = session.drafts
        return render_page(
            "label.html",
            422 if errors else 200,
            photo=photo,
            view=view,
            fields=view.form.fields,
            mean=view.form.mean(),
            missing=view.form.num_missing(),
            num_required=len(REQUIRED),
            errors=errors,
            first_error=next(iter(errors.fields), ""),
            optional_open=bool({*view.form.fields, *errors.fields} & {*OPTIONAL}),
            tab=uuid4().hex,
            title=self.title,
            dimensions=list(enumerate(DIMENSIONS)),
            max_chars=MAX_LONG_TEXT,
            position=(index + 1, len(ids)),
            counts=session.counts(),
            previous=ids[index - 1] if index else "",
            next=ids[index + 1] if index + 1 < len(ids) else "",
            preload=following.id if following and following is not photo else "",
            saved=previous_saved.name if previous_saved else "",
            exposure=parse_exposure(read_exposure(photo.file.path)),
            has_drafts=drafts is not None,
            has_draft=session.find_draft(photo) is not None,
            draft_fault=drafts.fault if drafts else "",
        )
