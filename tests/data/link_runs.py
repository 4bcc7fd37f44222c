"""The stage link on a small application."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mondrian.core.params import Params
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.link import MANIFEST_FILE, link
from mondrian.data.link_context import LinkContext
from mondrian.data.manifest import Manifest, ManifestRecord

MakeDb = Callable[..., Path]


@dataclass(frozen=True)
class Linked:
    """The counts and the manifest that link wrote."""

    counts: dict[str, Any]
    records: list[ManifestRecord]
    left_out: list[ManifestRecord]
    reasons: dict[str, str]
    rejected_photos: list[str]


def run_link(path: Path, params: Params, advisor: str = "ansel", **rules: Any) -> Linked:
    application = path.parent
    folder = rules.pop("source", application / "source")
    folders = ApplicationFolders(folder, application / "analysis_md", application / "analysis")
    context = LinkContext(advisor, folders, params.link.model_copy(update=rules))
    with TemporaryDirectory() as output:
        counts = link(path, context, params.image, Path(output, "cache"), Path(output))
        manifest = Manifest(Path(output, MANIFEST_FILE))
        assert manifest.counts.model_dump(mode="json") == counts
        assert counts["linked"] + sum(counts["rejected"].values()) == counts["finished"]
        return Linked(
            counts,
            list(manifest.records()),
            list(manifest.left_out_records()),
            {r.job_id: str(r.reason) for r in manifest.rejected_jobs()},
            [r.photo for r in manifest.rejected_jobs()],
        )
