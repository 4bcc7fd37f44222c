"""The data report: one page to look at before training, from the manifest and the split."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mondrian.core.html import page, thumbnail_url
from mondrian.critique.rejection import MEANING, Reason
from mondrian.critique.schema import DIMENSIONS
from mondrian.data.manifest import Manifest, Record, outcomes
from mondrian.data.quality_flags import COSTS, FLAGS
from mondrian.data.split import PARTS, Split

_COPIES, _COPY_GROUPS = 6, 24  # files shown of one photograph, and photographs that have copies
_FLAGGED = 4  # records shown for each suspicion
_REFUSALS = 500  # jobs that are left out, listed with their detail
_SHOWN = 18  # photographs shown of each part
_BINS = np.arange(-0.5, 11)  # a bar for each whole score


@dataclass
class _Shown:
    """What is picked from the manifest while it is read once."""

    copies: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    flagged: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    part_of: dict[str, str] = field(default_factory=dict)  # of each picture


def data_report(manifest: Manifest, result: Split) -> str:
    """The page as HTML."""
    shown = _pick(manifest, result)
    counts, told = manifest.counts.model_dump(), result.counts()
    return page(
        "data/data_report.html",
        advisor=manifest.advisor,
        counts=counts,
        parts={part: told[part] for part in PARTS},
        folds=told.get("folds"),
        bars=_bars(counts),
        meaning={str(reason): text for reason, text in MEANING.items()},
        scores=_score_charts(result),
        refusals=list(islice(manifest.rejected(), _REFUSALS)),
        copies=_copies(shown),
        flagged=_flagged(shown, counts),
        photographs={
            part: [_picture(path) for path in shown.parts[part].values()] for part in PARTS
        },
    )


def _pick(manifest: Manifest, result: Split) -> _Shown:
    shown = _Shown()
    for record, part in zip(manifest.records(), result.parts, strict=True):
        shown.part_of[record.photo.group] = part
        if len(shown.parts[part]) < _SHOWN:
            shown.parts[part].setdefault(record.photo.group, record.photo.path)
    for record in chain(manifest.records(), manifest.left_out()):
        shown.copies[record.photo.group].setdefault(record.photo.path, record.photo.sha256)
        for flag in record.suspicions:
            if len(shown.flagged[flag]) < _FLAGGED:
                shown.flagged[flag].append(record)
    return shown


def _bars(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of the jobs: a name, a number and its share of the longest bar."""
    told = outcomes(counts)
    longest = max(told.values())
    return [{"name": n, "jobs": k, "width": 100 * k / longest} for n, k in told.items()]


def _score_charts(result: Split) -> list[dict[str, Any]]:
    """For each dimension and the overall score: the share of each whole score in each part."""
    out = []
    scores = {part: result.scores(part) for part in PARTS}
    for i, name in enumerate((*DIMENSIONS, "Overall")):
        rows = []
        highest = 0.0
        for part in PARTS:
            told = scores[part][:, i]
            if len(told):
                shares = np.histogram(told, _BINS)[0] / len(told)
                highest = max(highest, round(100 * float(shares.max()), 1))
                rows.append(
                    {
                        "part": part,
                        "shares": [round(100 * share, 1) for share in shares.tolist()],
                        "mean": float(told.mean()),
                        "std": float(told.std()),
                        "modal": float(shares.max()),
                    }
                )
        out.append({"name": name, "rows": rows, "highest": highest})
    return out


def _copies(shown: _Shown) -> list[dict[str, Any]]:
    """Photographs that lie under several names, those with most names first."""
    several = sorted(
        (files for files in shown.copies.items() if len(files[1]) > 1),
        key=lambda files: (-len(files[1]), files[0]),
    )
    return [
        {
            "part": shown.part_of.get(group, "left out"),
            "files": [_picture(path) for path in islice(files, _COPIES)],
            "more": max(0, len(files) - _COPIES),
            "contents": len(set(files.values())),
        }
        for group, files in several[:_COPY_GROUPS]
    ]


def _flagged(shown: _Shown, counts: dict[str, Any]) -> list[dict[str, Any]]:
    """Suspicions with how many records bear them, what keeping costs, and some of the records."""
    return [
        {
            "name": flag,
            "meaning": MEANING[Reason(flag)],
            "cost": COSTS[flag],
            "count": counts["suspicions"][flag],
            "records": [_told(record) for record in shown.flagged[flag]],
        }
        for flag in FLAGS
        if counts["suspicions"].get(flag)
    ]


def _told(record: Record) -> dict[str, Any]:
    return {
        "job": record.job_id,
        "reason": record.reason,
        "picture": _picture(record.photo.path),
        "critique": record.critique,
        "suspicions": record.suspicions,
    }


def _picture(path: str) -> dict[str, str | None]:
    return {"name": Path(path).name, "url": thumbnail_url(Path(path))}
