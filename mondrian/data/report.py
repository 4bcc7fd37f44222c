"""The data report: one HTML page about the manifest and the split, to read before training."""

from collections import defaultdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Manifest, ManifestRecord, count_outcomes
from mondrian.data.quality_flags import FLAG_COSTS
from mondrian.data.split import SPLIT_PARTS, DatasetSplit

_MAX_DUPLICATE_GROUPS = 24
_FILES_PER_GROUP = 6
_RECORDS_PER_FLAG = 4
_PHOTOS_PER_PART = 18
_MAX_REJECTED_JOBS = 500
_BINS = np.arange(-0.5, 11)  # one for each whole score


def render_data_report(manifest: Manifest, split: DatasetSplit) -> str:
    return render_template(
        "data/data_report.html",
        advisor=manifest.advisor,
        counts=manifest.counts,
        split_counts=split.counts(),
        part_names=SPLIT_PARTS,
        outcomes=count_outcomes(manifest.counts.model_dump()),
        reasons=RejectionReason,
        flag_costs=FLAG_COSTS,
        score_charts=_build_score_charts(split),
        rejected_jobs=list(islice(manifest.rejected_jobs(), _MAX_REJECTED_JOBS)),
        photos_per_group=_FILES_PER_GROUP,
        to_path=Path,
        thumbnail_url=thumbnail_url,
        **_select_examples(manifest, split),
    )


def _select_examples(manifest: Manifest, split: DatasetSplit) -> dict[str, Any]:
    """Return photos of each split, flagged records and near-duplicates."""
    photos: dict[str, dict[str, str]] = {part: {} for part in SPLIT_PARTS}
    part_by_group: dict[str, str] = {}
    for record, part in zip(manifest.records(), split.parts, strict=True):
        part_by_group[record.photo.group] = part
        if len(photos[part]) < _PHOTOS_PER_PART:
            photos[part].setdefault(record.photo.group, record.photo.path)
    flagged: dict[str, list[ManifestRecord]] = defaultdict(list)
    copies: dict[str, dict[str, str]] = defaultdict(dict)  # sha256 by path
    for record in chain(manifest.records(), manifest.left_out_records()):
        copies[record.photo.group].setdefault(record.photo.path, record.photo.sha256)
        for flag in record.suspicions:
            if len(flagged[flag]) < _RECORDS_PER_FLAG:
                flagged[flag].append(record)
    groups = sorted(copies, key=lambda group: (-len(copies[group]), group))
    duplicates = [
        (part_by_group.get(group, "left out"), copies[group])
        for group in groups[:_MAX_DUPLICATE_GROUPS]
        if len(copies[group]) > 1
    ]
    return {"photos": photos, "flagged_records": flagged, "duplicate_groups": duplicates}


def _build_score_charts(split: DatasetSplit) -> list[dict[str, Any]]:
    """Return the distribution of each score in each split, in % per whole score."""
    parts = [part for part in SPLIT_PARTS if len(split.scores(part))]
    charts = []
    for i, name in enumerate((*DIMENSIONS, "Overall")):
        rows = []
        for part in parts:
            scores = split.scores(part)[:, i]
            fractions = np.histogram(scores, _BINS)[0] / len(scores)
            row = {"part": part, "mean": scores.mean(), "std": scores.std()}
            row["percentages"] = [round(100 * fraction, 1) for fraction in fractions.tolist()]
            rows.append(row | {"mode_percentage": 100 * fractions.max()})
        highest = max((max(row["percentages"]) for row in rows), default=0.0)
        charts.append({"name": name, "rows": rows, "max_percentage": highest})
    return charts
