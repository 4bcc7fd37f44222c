"""Preference pairs from people's feedback, written as rows for TRL, LLaMA-Factory or ms-swift.

A corrected critique is better than the served one; the critique that a blind vote prefers is better
than the other; thumbs up and accepted are better than thumbs down for the same photo. Pairs that
contradict each other are left out.

TRL: docs/source/dataset_formats.md, conversational preference with images (as trl-lib/rlaif-v).
LLaMA-Factory: src/llamafactory/data/converter.py, SharegptDatasetConverter with `ranking`.
ms-swift: docs/source_en/Customization/Custom-dataset.md, `rejected_response`.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import open_atomic_folder, write_json, write_text
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import ImageParams
from mondrian.critique.prompt import build_chat_messages, build_row_messages
from mondrian.data.photos.near_duplicates import group_near_duplicates
from mondrian.data.photos.photo_index import PhotoIndex
from mondrian.data.photos.photo_scan import PhotoInfo, scan_photos
from mondrian.data.prepare import IMAGE_PATTERN, image_path

PAIR_REASONS = ("corrected", "vote", "thumbs", "accepted")  # the first one that applies is reported
LEFT_OUT_REASONS = (
    "no_critique equal_votes equal_texts twice contradictory photo_missing held_out".split()
)
EXPORT_PATTERNS = (IMAGE_PATTERN, "preferences_*.json*", "dataset_info.json")
EXPORT_FORMATS = {"trl": ".jsonl", "llama-factory": ".json", "ms-swift": ".jsonl"}  # suffix of each
Messages = list[dict[str, str]]
PairPhotos = Mapping[str, tuple[Path, PhotoInfo]]  # path and info by filename


@dataclass(frozen=True)
class RatedCritique:
    """One advisor's critique in one job, and a person's feedback about it."""

    job: str
    photo: str  # sha256 of the sent photo, or its file
    filename: str  # as in the job
    critique: str  # canonical, as served
    corrected: str = ""  # canonical; empty if it was not corrected
    thumbs: int = 0
    verdict: str = ""
    model_used: str = ""  # as jobs.model_used
    version: str = ""
    who: str = ""
    preferred_to: tuple[str, ...] = ()  # jobs that lost a blind vote against it


@dataclass(frozen=True)
class PreferencePair:
    """Two critiques of one photo; `reason` is one of PAIR_REASONS."""

    reason: str
    chosen: str
    rejected: str
    chosen_source: RatedCritique
    rejected_source: RatedCritique


def find_pairs(critiques: Iterable[RatedCritique]) -> tuple[list[PreferencePair], dict[str, int]]:
    """Return every pair, and the number of pairs and of left-out ones by reason."""
    by_photo: dict[str, list[RatedCritique]] = defaultdict(list)
    for critique in critiques:
        by_photo[critique.photo].append(critique)
    counts: Counter[str] = Counter()
    pairs = [pair for group in by_photo.values() for pair in _pair_up(group, counts)]
    counts.update(pair.reason for pair in pairs)
    return pairs, dict(counts)


def format_preference_summary(
    advisor: str, pairs: Sequence[PreferencePair], counts: Mapping[str, int], held_out: bool
) -> str:
    reasons = _format_counts(Counter(pair.reason for pair in pairs), PAIR_REASONS)
    left_out = _format_counts(counts, LEFT_OUT_REASONS)
    photos = {pair.chosen_source.photo for pair in pairs}
    lines = [
        f"preferences {advisor}: {counts.get('judged', 0)} rated critiques → {len(pairs)} pairs "
        f"from {len(photos)} photos{f': {reasons}' if reasons else ''}"
    ]
    lines += [f"  left out: {left_out}"] if left_out else []
    lines += [] if held_out else ["  no photo was held out; see --exclude_photos_of"]
    return "\n".join(lines)


def _format_counts(counts: Mapping[str, int], names: Sequence[str]) -> str:
    return " · ".join(f"{name} {counts[name]}" for name in names if counts.get(name))


def _pair_up(critiques: list[RatedCritique], counts: Counter[str]) -> Iterator[PreferencePair]:
    pair_by_texts: dict[tuple[str, str], PreferencePair] = {}
    for pair in _iter_candidate_pairs(critiques):
        texts = (pair.chosen, pair.rejected)
        if pair.chosen == pair.rejected:
            counts["equal_texts"] += 1
        elif texts in pair_by_texts:
            counts["twice"] += 1
        else:
            pair_by_texts[texts] = pair
    for (chosen, rejected), pair in pair_by_texts.items():
        if (rejected, chosen) in pair_by_texts:
            counts["contradictory"] += 1
        else:
            yield pair


def _iter_candidate_pairs(critiques: list[RatedCritique]) -> Iterator[PreferencePair]:
    for critique in critiques:
        if critique.verdict == "corrected" and critique.corrected:
            texts = (critique.corrected, critique.critique)
            yield PreferencePair("corrected", *texts, critique, critique)
    for better, worse in product(critiques, critiques):
        if worse.job in better.preferred_to:
            yield PreferencePair("vote", better.critique, worse.critique, better, worse)
    bad = [c for c in critiques if c.thumbs < 0 and c.verdict != "accepted"]
    liked = [c for c in critiques if c.thumbs > 0]
    accepted = [c for c in critiques if c.verdict == "accepted" and c.thumbs >= 0]
    for reason, good in (("thumbs", liked), ("accepted", accepted)):
        for better, worse in product(good, bad):
            yield PreferencePair(reason, better.critique, worse.critique, better, worse)


def find_pair_photos(pairs: Iterable[PreferencePair], source: Path, cache_dir: Path) -> PairPhotos:
    """Return path and info of each photo by its filename in the jobs, if it is usable."""
    index, paths = PhotoIndex(source, use_thumbnails=False), {}
    for filename in {pair.chosen_source.filename for pair in pairs}:
        with suppress(PhotoError):
            match = index.find(filename)
            if not match.assumed_source:  # else another row may name that photo
                paths[filename] = match.path
    infos = dict(scan_photos(sorted(set(paths.values())), cache_dir))
    return {name: (path, infos[path]) for name, path in paths.items() if not infos[path].reason}


def find_held_out_duplicates(
    photos: PairPhotos,
    held_out_paths: Sequence[Path],
    image_params: ImageParams,
    cache_dir: Path,
) -> set[str]:
    """Return the filenames of photos that are near-duplicates of a held-out photo."""
    held_out = [info for _, info in scan_photos(held_out_paths, cache_dir) if not info.reason]
    infos = [*(info for _, info in photos.values()), *held_out]
    fingerprints = {info.sha256: info.fingerprint for info in infos}
    groups = group_near_duplicates(fingerprints, image_params)
    held_out_groups = {groups[info.sha256].name for info in held_out}
    return {
        name for name, (_, info) in photos.items() if groups[info.sha256].name in held_out_groups
    }


def select_usable_pairs(
    pairs: Sequence[PreferencePair], photos: PairPhotos, held_out: set[str], counts: Counter[str]
) -> list[PreferencePair]:
    """Return pairs with a photo that exists and is not held out; count the others."""
    existing = [pair for pair in pairs if pair.chosen_source.filename in photos]
    usable = [pair for pair in existing if pair.chosen_source.filename not in held_out]
    counts["photo_missing"] += len(pairs) - len(existing)
    counts["held_out"] += len(existing) - len(usable)
    return usable


@dataclass(frozen=True)
class ExportSettings:
    advisor: str
    persona: str
    image: ImageParams
    format: str  # one of EXPORT_FORMATS


def write_pairs(
    pairs: Sequence[PreferencePair], photos: PairPhotos, settings: ExportSettings, folder: Path
) -> Path:
    """Write rows and resized images without metadata; return the file of the rows."""
    suffix = EXPORT_FORMATS[settings.format]
    name = f"preferences_{settings.advisor}{suffix}"
    with open_atomic_folder(folder, EXPORT_PATTERNS) as staging:
        rows = []
        for pair in pairs:
            path, info = photos[pair.chosen_source.filename]
            image = image_path(staging, info.sha256)
            if not image.exists():
                _write_image(path, settings.image, image)
            messages = build_row_messages(settings.persona, pair.chosen)
            row = _build_row(settings.format, messages, pair)
            row["images"] = [image_path(folder, info.sha256).as_posix()]
            row["provenance"] = _build_provenance(pair, settings.advisor, info.sha256)
            rows.append(json.dumps(row, ensure_ascii=False))
        start, separator, end = ("[\n", ",\n", "\n]\n") if suffix == ".json" else ("", "\n", "\n")
        write_text(staging / name, start + separator.join(rows) + end)
        if settings.format == "llama-factory":
            columns = {"messages": "conversations"}
            columns |= {name: name for name in ("chosen", "rejected", "images")}
            layout = {"formatting": "sharegpt", "ranking": True, "columns": columns}
            dataset = {f"preferences_{settings.advisor}": {"file_name": name} | layout}
            write_json(staging / "dataset_info.json", dataset)
    return folder / name


def _build_row(format: str, messages: Messages, pair: PreferencePair) -> dict[str, Any]:
    if format == "ms-swift":
        return {"messages": messages, "rejected_response": pair.rejected}
    if format == "llama-factory":
        roles = {"system": "system", "user": "human"}
        return {
            "conversations": [
                {"from": roles[m["role"]], "value": m["content"]} for m in messages[:-1]
            ],
            "chosen": {"from": "gpt", "value": pair.chosen},
            "rejected": {"from": "gpt", "value": pair.rejected},
        }

    def message(role: str, content: Any) -> dict[str, Any]:
        """Return a message with a list as content: a column of a table has one type."""
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        return {"role": role, "content": parts}

    return {
        "prompt": [message(**m) for m in build_chat_messages(messages[:-1])],
        "chosen": [message("assistant", pair.chosen)],
        "rejected": [message("assistant", pair.rejected)],
    }


def _build_provenance(pair: PreferencePair, advisor: str, photo: str) -> dict[str, Any]:
    better, worse = pair.chosen_source, pair.rejected_source
    return {
        "why": pair.reason,
        "advisor": advisor,
        "photo": photo,
        "who": better.who,
        "chosen_job": better.job,
        "chosen_by": better.model_used,
        "chosen_version": better.version,
        "rejected_job": worse.job,
        "rejected_by": worse.model_used,
        "rejected_version": worse.version,
    }


def _write_image(photo: Path, image_params: ImageParams, path: Path) -> None:
    try:
        pixels = read_photo(photo)
    except PhotoError as error:
        raise DataError(f"{photo}: {error}; it changed during this run: run again") from None
    path.parent.mkdir(exist_ok=True)
    resize_to_fit(pixels, image_params.min_pixels, image_params.max_pixels).save(path)
