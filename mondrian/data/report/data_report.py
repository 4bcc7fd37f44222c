"""The data report: one HTML page about what link read, used and left out, and why."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

from mondrian.core.axis import build_axis
from mondrian.core.html import render_template, thumbnail_url
from mondrian.core.params import LinkParams
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Manifest, ManifestRecord, RejectedJob
from mondrian.data.quality.quality_flags import FLAG_COSTS
from mondrian.data.quality.switches import SwitchCounter, SwitchCounts
from mondrian.data.report.duplicate_groups import DuplicateGroups, list_kinds
from mondrian.data.report.photo_names import PhotoNames
from mondrian.data.report.score_summary import ScoreSummary

DATA_REPORT_FILE = "data_report.html"
_EXAMPLES = 6  # pairs
_RECORDS_PER_FLAG = 4
_JOBS_PER_REASON = 25
_MAX_ROWS = 20  # of a table of counts
_MAX_CHARACTERS = 400  # of a detail, an id or a name


@dataclass
class ManifestSummary:
    """What the data report and link's printed summary show of a manifest."""

    manifest: Manifest
    params: LinkParams
    switches: SwitchCounts = field(init=False)
    scores: ScoreSummary = field(default_factory=ScoreSummary)
    duplicates: DuplicateGroups = field(default_factory=DuplicateGroups)
    photo_names: PhotoNames = field(default_factory=PhotoNames)
    # Counts of used and of left-out records by where the text was found, and so on.
    origins: dict[str, Counter[tuple[str, bool]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    examples: list[ManifestRecord] = field(default_factory=list)
    flagged: dict[str, list[ManifestRecord]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[str, list[RejectedJob]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: ManifestRecord) -> None:
        is_used = record.reason is None
        self.scores.add(record)
        self.duplicates.add(record.photo, is_used)
        self.photo_names.add(record.photo.path)
        self.origins["text"][record.text_from, is_used] += 1
        self.origins["match"][record.photo.match_kind, is_used] += 1
        for note in dict.fromkeys(record.notes):
            self.origins["note"][note[:_MAX_CHARACTERS], is_used] += 1
        if is_used and len(self.examples) < _EXAMPLES:
            self.examples.append(record)
        for flag in record.suspicions:
            if len(self.flagged[flag]) < _RECORDS_PER_FLAG:
                self.flagged[flag].append(record)


def summarize_manifest(manifest: Manifest, params: LinkParams) -> ManifestSummary:
    """Read a manifest once; `params` are those that link ran with."""
    counter = SwitchCounter(params)
    summary = ManifestSummary(manifest, params)
    for record in manifest.left_out_records():
        counter.add_left_out(record)
        summary.add(record)
    for record in manifest.records():
        counter.add_used(record)
        summary.add(record)
    for job in manifest.rejected_jobs():
        counter.add_rejected(job)
        if len(summary.rejected[job.reason]) < _JOBS_PER_REASON:
            summary.rejected[job.reason].append(job)
    summary.switches = counter.count()
    return summary


def render_data_report(summary: ManifestSummary, problem: str = "") -> str:
    """Return the page; `problem` is the error of a run that linked nothing."""
    counts = summary.manifest.counts
    groups = summary.duplicates.find_groups()
    return render_template(
        "data/report/data_report.html",
        advisor=summary.manifest.advisor,
        problem=problem,
        counts=counts,
        reason_axis=build_axis(counts.rejected.values(), "jobs", is_count=True),
        reasons=RejectionReason,
        rejected_counts=dict(sorted(counts.rejected.items(), key=lambda item: -item[1])),
        rejected=summary.rejected,
        switches=summary.switches,
        flag_costs=FLAG_COSTS,
        examples=summary.examples,
        flagged=summary.flagged,
        scores=summary.scores,
        dimensions=DIMENSIONS,
        tolerance=summary.params.overall_tolerance,
        groups=groups,
        kinds=list_kinds(groups),
        origins={name: _top_rows(rows) for name, rows in summary.origins.items()},
        to_path=Path,
        to_name=summary.photo_names.shorten,
        thumbnail_url=cache(thumbnail_url),
    )


def _top_rows(rows: Mapping[tuple[str, bool], int]) -> list[tuple[str, int, int]]:
    """Return the most frequent (name, used, left out) counts."""
    names = {name for name, _ in rows}
    counts = [(name, rows.get((name, True), 0), rows.get((name, False), 0)) for name in names]
    counts.sort(key=lambda row: (-row[1] - row[2], row[0]))
    return list(islice(counts, _MAX_ROWS))
