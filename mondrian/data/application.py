"""What a database or list says about its application: folders and advisors, for params.yaml."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mondrian.core.errors import DataError
from mondrian.core.files import suggest_path
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.sources import default_photo_folder, locate_source, open_source


@dataclass(frozen=True)
class Application:
    source: Path  # database or list
    folders: ApplicationFolders  # all exist
    finished_jobs: dict[str, int]  # by advisor

    def describe_jobs(self) -> str:
        counts = [f"{name} {count}" for name, count in self.finished_jobs.items()]
        return f"{self.source}: finished jobs of {', '.join(counts)}"


def find_application(path: Path, photos: Path | None, advisors: Sequence[str]) -> Application:
    """Find the folders next to a database or list, and who its advisors are.

    photos     folder of the photos, if it is not next to the source
    advisors   those to use; none: all that the source names

    A folder of analyses that does not exist is replaced by that of the photos, since DVC needs an
    existing one. Raises DataError if the source is invalid, or photos or finished jobs are missing.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist{suggest_path(path)}; give the path of your database or list"
        )
    source = locate_source(path)
    finished_jobs = _count_finished_jobs(source, advisors)
    folder = photos or default_photo_folder(source)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder of photos{suggest_path(folder)}; give it with --source_dir"
        )
    analysis, html = (
        analyses if analyses.is_dir() else folder
        for analyses in (source.parent / "analysis_md", source.parent / "analysis")
    )
    folders = ApplicationFolders(folder, analysis, html)
    return Application(source, folders, finished_jobs)


def check_dependencies(folders: ApplicationFolders, project: Path) -> None:
    """Raise DataError if a folder contains outputs of the pipeline, which DVC refuses."""
    outputs = [(project / name).resolve() for name in ("data/linked", "metrics", "models")]
    for folder in (folders.source, folders.analysis, folders.html):
        if any(output.is_relative_to(folder.resolve()) for output in outputs):
            raise DataError(
                f"{folder} contains outputs of the pipeline, so DVC cannot depend on it; put "
                "photos and list into a folder of their own, such as data/photos"
            )


def _count_finished_jobs(source: Path, advisors: Sequence[str]) -> dict[str, int]:
    with open_source(source) as jobs:
        counts = jobs.count_jobs()
    finished = {advisor: counts.count_finished(advisor) for advisor in advisors}
    for advisor, count in finished.items():
        if not count:
            raise DataError(f"{source} has {counts.explain_none_finished(advisor)}")
    finished = finished or counts.count_finished_by_advisor()
    if not finished and counts.count_finished("all"):
        raise DataError(f"{source} names no advisor; give --advisor NAME")
    if not finished:
        raise DataError(f"{source} has {counts.explain_none_finished(None)}")
    return finished
