"""Requests of clients, stored as jobs."""

from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from mondrian.serving.http.request_parsing import CritiqueForm, check_same_request
from mondrian.serving.http.uploads import Upload
from mondrian.serving.jobs.admission import QueueFullError
from mondrian.serving.jobs.runner import JobRunner
from mondrian.storage.jobs import JobRow


class JobIntake:
    def __init__(self, runner: JobRunner) -> None:
        self._runner, self._store, self._uploads = runner, runner.store, runner.uploads
        self._serve = runner.params.serve

    async def check_queue(self) -> None:
        """Raise QueueFullError if too many jobs are queued."""
        queued = await self._runner.call_store(self._store.count_queued)
        if queued >= self._serve.max_queued_jobs:
            mean_seconds, rows = self._runner.admission.mean_seconds, self._runner.state.batch_size
            raise QueueFullError(max(1, round(queued * mean_seconds / max(1, rows))))

    async def accept(
        self, form: CritiqueForm, kind: str, status: str
    ) -> tuple[JobRow, Upload, bool]:
        """Store a photo and its job; return row, upload, and whether the job is new.

        Raises RequestRejectedError if the idempotency key was used for another request.
        """
        runner = self._runner
        upload = await runner.decode_upload(self._uploads.save, form.content, form.filename)
        try:
            row, is_new = await self.add(form, upload, kind, status)
        except SQLAlchemyError:
            await runner.call_upload_store(self._uploads.delete, upload.filename)
            raise
        if not is_new:
            await runner.call_upload_store(self._uploads.delete, upload.filename)
            check_same_request(row, form, upload)
        return row, upload, is_new

    async def add(
        self, form: CritiqueForm, upload: Upload, kind: str, status: str, pair_of: str | None = None
    ) -> tuple[JobRow, bool]:
        """Add a row for a request; return it, or the row of the same idempotency key and False."""
        row = {
            "id": form.job_id,
            "filename": upload.filename,
            "advisor": ",".join(form.advisors),
            "mode": form.mode,
            "status": status,
            "kind": kind,
            "subject": form.subject,
            "enable_rag": int(form.enable_rag),
            "idempotency_key": form.idempotency_key,
            "photo_sha256": upload.sha256,
            "exposure": upload.exposure or None,
            "experiment": self._serve.experiment,
            "pair_of": pair_of,
        }
        return await self._runner.write_store(self._store.add, row)

    async def add_for_photo(
        self, source: JobRow, advisor: str, mode: str, client: str, pair_of: str | None = None
    ) -> JobRow:
        """Queue another critique of a job's photo, for a client, which may be unknown ("")."""
        id = str(uuid4())
        row = {
            "id": id,
            "advisor": advisor,
            "mode": mode,
            "status": "queued",
            "kind": "upload",
            "subject": client or id,
            "enable_rag": 0,
            "experiment": self._serve.experiment,
            "pair_of": pair_of,
            **{name: source[name] for name in ("filename", "photo_sha256", "exposure")},
        }
        added, _ = await self._runner.write_store(self._store.add, row)
        self._runner.notify_queued()
        return added
