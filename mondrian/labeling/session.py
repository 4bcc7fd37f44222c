"""Labeling the photos of a folder: the state of each one, its form, and what saves it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from mondrian.core.errors import MondrianError
from mondrian.core.params import LinkParams
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.inference.photo_files import PhotoFile, PhotoListing
from mondrian.labeling.critique_form import REQUIRED, CritiqueForm, find_fault
from mondrian.labeling.critique_list import CritiqueList, ListEntry
from mondrian.labeling.draft_process import DraftProcess
from mondrian.labeling.photo_images import PhotoImages
from mondrian.labeling.progress_log import Progress, ProgressLog

DONE, STARTED, OPEN, SKIPPED, UNREADABLE = "done", "started", "open", "skipped", "unreadable"
STATES = (DONE, STARTED, OPEN, SKIPPED, UNREADABLE)
_NO_ENTRY = ListEntry(0, None)


class ChangedElsewhereError(MondrianError):
    """A photo was changed in another tab after this one had loaded it."""


@dataclass(frozen=True)
class LabelPhoto:
    file: PhotoFile
    name: str  # in the list

    @property
    def id(self) -> str:
        """Return the start of its hash, for URLs: it stays if photos are added or renamed."""
        return self.file.sha256[:16]


@dataclass(frozen=True)
class Writer:
    """The tab that sends a form, and the tab that had written last when the form was loaded."""

    tab: str
    seen: str


@dataclass(frozen=True)
class FormView:
    """What the page of a photo shows."""

    state: str
    form: CritiqueForm
    is_changed: bool  # the form is not what the list has
    draft: str  # the model whose draft is in the form, if any
    last_writer: str
    fault: str  # why the photo has no form


@dataclass(frozen=True)
class FormErrors:
    """Why a critique is not finished: by field, and as a whole."""

    fields: Mapping[str, str] = field(default_factory=dict)
    message: str = ""

    def __bool__(self) -> bool:
        return bool(self.fields or self.message)


def list_photos(listing: PhotoListing, root: Path, critiques: CritiqueList) -> list[LabelPhoto]:
    """Return the photos of a listing once each, named relative to a folder.

    Copies become skipped files; the files of this program are in neither.
    """
    photos: dict[str, LabelPhoto] = {}
    for file in listing.photos:
        path = file.path.resolve()
        if not path.is_relative_to(root):
            detail = "a link that leads out of the folder; copy the photo into it"
            listing.skip(file.path, RejectionReason.IMAGE_OUTSIDE_SOURCE, detail)
        elif first := photos.get(file.sha256):
            listing.skip(file.path, "copy", f"the same file as {first.name}")
        else:
            photos[file.sha256] = LabelPhoto(file, path.relative_to(root).as_posix())
    hidden = critiques.hidden_file("").name  # also of what a kill left while a file was written
    listing.skipped[:] = [
        file
        for file in listing.skipped
        if (name := Path(file.name).name) != critiques.path.name and not name.startswith(hidden)
    ]
    return list(photos.values())


class LabelingSession:
    """The photos in order; each is done, started, open, skipped or unreadable.

    A finished critique is an entry of the list. Everything else is in the progress log.
    """

    def __init__(
        self,
        photos: Sequence[LabelPhoto],
        critiques: CritiqueList,
        progress: ProgressLog,
        params: LinkParams,
        drafts: DraftProcess | None = None,
    ) -> None:
        self.photos = {photo.id: photo for photo in photos}
        self.critiques, self.drafts = critiques, drafts
        self.images = PhotoImages([photo.file for photo in photos])
        self._progress, self._params = progress, params
        self._lock = RLock()

    def close(self) -> None:
        self.images.close()
        if self.drafts:
            self.drafts.close()

    def states(self) -> dict[str, str]:
        """Return the state of each photo by id."""
        entries = self.critiques.read()
        return {id: self._state(photo, entries) for id, photo in self.photos.items()}

    def counts(self) -> dict[str, int]:
        """Return the number of photos in each state, without states of none."""
        counts = Counter(self.states().values())
        return {state: counts[state] for state in STATES if counts[state]}

    def next_open(self, id: str = "") -> LabelPhoto | None:
        """Return the first open or started photo after one, or from the start; None if none is."""
        states, ids = self.states(), list(self.photos)
        start = ids.index(id) + 1 if id else 0
        order = (*ids[start:], *ids[:start])
        return next((self.photos[i] for i in order if states[i] in (OPEN, STARTED)), None)

    def view(self, photo: LabelPhoto) -> FormView:
        entries, progress = self.critiques.read(), self._progress.get(photo.file.sha256)
        saved = CritiqueForm.from_critique(entries.get(photo.name, _NO_ENTRY).critique)
        is_kept = progress is not None and progress.state != "finished"
        form = CritiqueForm.from_input(progress.fields) if progress and is_kept else saved
        return FormView(
            state=self._state(photo, entries),
            form=form,
            is_changed=form != saved,
            draft=progress.draft if progress and is_kept else "",
            last_writer=progress.writer if progress else "",
            fault=self._find_fault(photo, entries),
        )

    def find_draft(self, photo: LabelPhoto) -> tuple[CritiqueForm, str] | None:
        """Return a model's critique as a form, and the model; None if there is none yet."""
        record = self.drafts.find(photo.file.sha256) if self.drafts else None
        if record is None:
            return None
        model = f"adapter {record.adapter}" if record.adapter else f"base {record.base[:12]}"
        return CritiqueForm.from_critique(json.loads(serialize_critique(record.critique))), model

    def keep(self, photo: LabelPhoto, form: CritiqueForm, writer: Writer) -> None:
        """Keep an unfinished critique, or forget it if it is what the list has.

        This and the next three raise ChangedElsewhereError if another tab has changed the photo.
        """
        with self._lock:
            view = self._check_writer(photo, writer)
            if form != view.form:
                self._add(photo, "started", form, writer, view.draft)

    def skip(self, photo: LabelPhoto, form: CritiqueForm, writer: Writer) -> None:
        with self._lock:
            view = self._check_writer(photo, writer)
            self._add(photo, "skipped", form, writer, view.draft)

    def use_draft(self, photo: LabelPhoto, form: CritiqueForm, writer: Writer) -> None:
        """Fill in the empty fields from the draft, if there is one."""
        with self._lock:
            view = self._check_writer(photo, writer)
            form_and_model = self.find_draft(photo)
            if form_and_model:
                draft, model = form_and_model
                self._add(photo, "started", form.fill_in(draft), writer, model)
            elif form != view.form:
                self._add(photo, "started", form, writer, view.draft)

    def finish(self, photo: LabelPhoto, form: CritiqueForm, writer: Writer) -> FormErrors:
        """Write the critique into the list, or keep it and return what is wrong with it."""
        with self._lock:
            view = self._check_writer(photo, writer)
            errors = self._find_errors(photo, form, view)
            if errors:
                self._add(photo, "started", form, writer, view.draft)
                return errors
            self.critiques.write(photo.name, self._build_entry(photo, form, view.draft))
            self._add(photo, "finished", CritiqueForm({}), writer, "")
            return errors

    def _state(self, photo: LabelPhoto, entries: Mapping[str, ListEntry]) -> str:
        progress = self._progress.get(photo.file.sha256)
        if photo.name in entries:
            return DONE
        if photo.file.sha256 in self.images.faults:
            return UNREADABLE
        if progress is not None and progress.state == "skipped":
            return SKIPPED
        return STARTED if progress is not None and progress.fields else OPEN

    def _find_fault(self, photo: LabelPhoto, entries: Mapping[str, ListEntry]) -> str:
        entry = entries.get(photo.name)
        if entry and entry.content is None:
            return (
                f"line {entry.number} of {self.critiques.path} has this photo's critique in "
                "another form; change it there"
            )
        return self.images.faults.get(photo.file.sha256, "")

    def _check_writer(self, photo: LabelPhoto, writer: Writer) -> FormView:
        view = self.view(photo)
        if view.fault:
            raise MondrianError(view.fault)
        if view.last_writer not in ("", writer.tab, writer.seen):
            raise ChangedElsewhereError(
                f"{photo.name} was changed in another tab; reload this one, copy your text first"
            )
        return view

    def _add(
        self, photo: LabelPhoto, state: Any, form: CritiqueForm, writer: Writer, draft: str
    ) -> None:
        self._progress.add(
            Progress(
                advisor=self.critiques.advisor,
                photo=photo.file.sha256,
                name=photo.name,
                state=state,
                fields=dict(form.fields),
                draft=draft,
                writer=writer.tab,
            )
        )

    def _find_errors(self, photo: LabelPhoto, form: CritiqueForm, view: FormView) -> FormErrors:
        if errors := form.find_errors():
            return FormErrors(errors)
        draft = self.find_draft(photo) if view.draft else None
        if draft and all(form.fields[name] == draft[0].fields.get(name) for name in REQUIRED):
            message = "This is the draft, word for word; say what you see, or skip the photo."
            return FormErrors(message=message)
        if fault := find_fault(form.to_critique(), self._params):
            return FormErrors(message=f"It would not become a training pair: {fault}.")
        return FormErrors()

    def _build_entry(self, photo: LabelPhoto, form: CritiqueForm, draft: str) -> dict[str, Any]:
        """Return the entry, with the keys that an older one has."""
        entry = self.critiques.read().get(photo.name, _NO_ENTRY)
        advisor = self.critiques.advisor
        new = {
            "id": f"{advisor}-{photo.file.sha256[:12]}",
            "photo": photo.name,
            "advisor": advisor,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        content = dict(entry.content or new) | {"critique": form.to_critique()}
        return content | ({"draft": draft} if draft else {})
