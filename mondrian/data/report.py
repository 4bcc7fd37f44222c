"""The data report: one page to look at before training, from the manifest and the split."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique.rejection import REASON_DESCRIPTIONS, RejectionReason
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Manifest, ManifestRecord, count_outcomes
from mondrian.data.quality_flags import FLAG_COSTS, FLAGS
from mondrian.data.split import SPLIT_PARTS, DatasetSplit

_COPIES, _COPY_GROUPS = 6, 24  # files shown of one photograph, and photographs that have copies
_RECORDS_PER_FLAG = 4  # records shown for each suspicion
_MAX_REJECTED_JOBS = 500  # jobs that are left out, listed with their detail
_PHOTOS_PER_PART = 18  # photographs shown of each part
_BINS = np.arange(-0.5, 11)  # a bar for each whole score


@dataclass
class _Selection:
    """What is picked from the manifest while it is read once."""

    copies: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    flagged: dict[str, list[ManifestRecord]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    part_by_group: dict[str, str] = field(default_factory=dict)  # of each picture


def render_data_report(manifest: Manifest, result: DatasetSplit) -> str:
    """The page as HTML."""
    selection = _pick(manifest, result)
    counts, split_counts = manifest.counts.model_dump(), result.counts()
    return render_template(
        "data/data_report.html",
        advisor=manifest.advisor,
        counts=counts,
        parts={part: split_counts[part] for part in SPLIT_PARTS},
        folds=split_counts.get("folds"),
        bars=_bars(counts),
        meaning={str(reason): text for reason, text in REASON_DESCRIPTIONS.items()},
        scores=_score_charts(result),
        refusals=list(islice(manifest.rejected_jobs(), _MAX_REJECTED_JOBS)),
        copies=_copies(selection),
        flagged=_list_flagged_records(selection, counts),
        photographs={
            part: [_describe_photo(path) for path in selection.parts[part].values()]
            for part in SPLIT_PARTS
        },
    )


def _pick(manifest: Manifest, result: DatasetSplit) -> _Selection:
    selection = _Selection()
    for record, part in zip(manifest.records(), result.parts, strict=True):
        selection.part_by_group[record.photo.group] = part
        if len(selection.parts[part]) < _PHOTOS_PER_PART:
            selection.parts[part].setdefault(record.photo.group, record.photo.path)
    for record in chain(manifest.records(), manifest.left_out_records()):
        selection.copies[record.photo.group].setdefault(record.photo.path, record.photo.sha256)
        for flag in record.suspicions:
            if len(selection.flagged[flag]) < _RECORDS_PER_FLAG:
                selection.flagged[flag].append(record)
    return selection


def _bars(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of the jobs: a name, a number and its share of the longest bar."""
    outcome_counts = count_outcomes(counts)
    longest = max(outcome_counts.values())
    return [{"name": n, "jobs": k, "width": 100 * k / longest} for n, k in outcome_counts.items()]


def _score_charts(result: DatasetSplit) -> list[dict[str, Any]]:
    """For each dimension and the overall score: the share of each whole score in each part."""
    out = []
    scores = {part: result.scores(part) for part in SPLIT_PARTS}
    for i, name in enumerate((*DIMENSIONS, "Overall")):
        rows = []
        highest = 0.0
        for part in SPLIT_PARTS:
            part_scores = scores[part][:, i]
            if len(part_scores):
                shares = np.histogram(part_scores, _BINS)[0] / len(part_scores)
                highest = max(highest, round(100 * float(shares.max()), 1))
                rows.append(
                    {
                        "part": part,
                        "shares": [round(100 * share, 1) for share in shares.tolist()],
                        "mean": float(part_scores.mean()),
                        "std": float(part_scores.std()),
                        "modal": float(shares.max()),
                    }
                )
        out.append({"name": name, "rows": rows, "highest": highest})
    return out


def _copies(selection: _Selection) -> list[dict[str, Any]]:
    """Photographs that lie under several names, those with most names first."""
    several = sorted(
        (files for files in selection.copies.items() if len(files[1]) > 1),
        key=lambda files: (-len(files[1]), files[0]),
    )
    return [
        {
            "part": selection.part_by_group.get(group, "left out"),
            "files": [_describe_photo(path) for path in islice(files, _COPIES)],
            "more": max(0, len(files) - _COPIES),
            "contents": len(set(files.values())),
        }
        for group, files in several[:_COPY_GROUPS]
    ]


def _list_flagged_records(selection: _Selection, counts: dict[str, Any]) -> list[dict[str, Any]]:
    """Suspicions with how many records bear them, what keeping costs, and some of the records."""
    return [
        {
            "name": flag,
            "meaning": REASON_DESCRIPTIONS[RejectionReason(flag)],
            "cost": FLAG_COSTS[flag],
            "count": counts["suspicions"][flag],
            "records": [_describe_record(record) for record in selection.flagged[flag]],
        }
        for flag in FLAGS
        if counts["suspicions"].get(flag)
    ]


def _describe_record(record: ManifestRecord) -> dict[str, Any]:
    return {
        "job": record.job_id,
        "reason": record.reason,
        "picture": _describe_photo(record.photo.path),
        "critique": record.critique,
        "suspicions": record.suspicions,
    }


def _describe_photo(path: str) -> dict[str, str | None]:
    return {"name": Path(path).name, "url": thumbnail_url(Path(path))}
