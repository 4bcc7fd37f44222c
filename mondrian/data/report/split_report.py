"""The split report: one HTML page about train, val and test, to read before training."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import render_template, thumbnail_url
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Manifest
from mondrian.data.report.photo_names import PhotoNames
from mondrian.data.split import SPLIT_PARTS, DatasetSplit

SPLIT_REPORT_FILE = "split_report.html"
_PHOTOS_PER_PART = 18
_BINS = np.arange(-0.5, 11)  # one for each whole score


def render_split_report(manifest: Manifest, split: DatasetSplit, problem: str = "") -> str:
    """Return the page; `problem` is the error of a split that is too small."""
    names = PhotoNames()
    return render_template(
        "data/report/split_report.html",
        advisor=manifest.advisor,
        problem=problem,
        counts=manifest.counts,
        split_counts=split.counts(),
        part_names=SPLIT_PARTS,
        score_charts=_build_score_charts(split),
        photos=_select_photos(manifest, split, names),
        to_path=Path,
        to_name=names.shorten,
        thumbnail_url=cache(thumbnail_url),
    )


def _select_photos(
    manifest: Manifest, split: DatasetSplit, names: PhotoNames
) -> dict[str, list[str]]:
    """Return the paths of some photos of each split, one of each group; names all photos."""
    photos: dict[str, dict[str, str]] = {part: {} for part in SPLIT_PARTS}
    for record, group, part in zip(manifest.records(), split.groups, split.parts, strict=True):
        names.add(record.photo.path)
        if len(photos[part]) < _PHOTOS_PER_PART:
            photos[part].setdefault(group, record.photo.path)
    return {part: list(path_by_group.values()) for part, path_by_group in photos.items()}


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
