"""Preference pairs from people's feedback, written as rows for TRL, LLaMA-Factory or ms-swift.

A pair is a better and a worse critique of one photo. A corrected critique is better than the served
one; thumbs up is better than thumbs down, and accepted is better than thumbs down. Critiques that
are each better than the other are not a pair.

TRL: docs/source/dataset_formats.md, conversational preference with images (as trl-lib/rlaif-v).
LLaMA-Factory: src/llamafactory/data/converter.py, SharegptDatasetConverter with `ranking`.
ms-swift: docs/source_en/Customization/Custom-dataset.md, `rejected_response`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import atomic_folder, write_json, write_text
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Image
from mondrian.critique.prompt import chat_messages, row_messages
from mondrian.data.near_duplicates import group_near_duplicates
from mondrian.data.photo_index import PhotoIndex
from mondrian.data.photo_scan import PhotoInfo, scan_photos

CORRECTED, THUMBS, ACCEPTED = "corrected", "thumbs", "accepted"
PAIR_REASONS = (CORRECTED, THUMBS, ACCEPTED)  # the first one that applies is reported
LEFT_OUT_REASONS = "no_critique equal_texts twice contradictory photograph_gone held_out".split()
IMAGES = "images"
EXPORT_PATTERNS = (f"{IMAGES}/{'[0-9a-f]' * 16}.png", "preferences_*.json*", "dataset_info.json")
_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}  # in LLaMA-Factory
PairPhotos = Mapping[str, tuple[Path, PhotoInfo]]  # path and info by filename


@dataclass(frozen=True)
class RatedCritique:
    """One advisor's critique in one job, and a person's feedback about it.

    photo       sha256 of the sent photo, or its file
    filename    as in the job
    critique    canonical, as served
    corrected   canonical; empty if it was not corrected
    model_used  as jobs.model_used
    """

    job: str
    photo: str
    filename: str
    critique: str
    corrected: str = ""
    thumbs: int = 0
    verdict: str = ""
    model_used: str = ""
    version: str = ""
    who: str = ""


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
    by_photo: dict[str, list[RatedCritique]] = {}
    for critique in critiques:
        by_photo.setdefault(critique.photo, []).append(critique)
    counts: Counter[str] = Counter()
    pairs = [pair for group in by_photo.values() for pair in _find_photo_pairs(group, counts)]
    counts.update(pair.reason for pair in pairs)
    return pairs, dict(counts)


def format_preference_summary(
    advisor: str, pairs: Sequence[PreferencePair], counts: Mapping[str, int], held_out: bool
) -> str:
    """Return the counts as a few lines of text.

    held_out  whether photos of held-out rows were excluded
    """
    reason_counts = Counter(pair.reason for pair in pairs)
    reasons = _format_counts(reason_counts, PAIR_REASONS)
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


def _find_photo_pairs(
    critiques: list[RatedCritique], counts: Counter[str]
) -> Iterator[PreferencePair]:
    """Yield the pairs of one photo."""
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
            yield PreferencePair(CORRECTED, *texts, critique, critique)
    bad = [c for c in critiques if c.thumbs < 0 and c.verdict != "accepted"]
    liked = [c for c in critiques if c.thumbs > 0]
    accepted = [c for c in critiques if c.verdict == "accepted" and c.thumbs >= 0]
    for reason, good in ((THUMBS, liked), (ACCEPTED, accepted)):
        for better, worse in product(good, bad):
            yield PreferencePair(reason, better.critique, worse.critique, better, worse)


def find_pair_photos(
    pairs: Iterable[PreferencePair], source: Path, cache: Path
) -> dict[str, tuple[Path, PhotoInfo]]:
    """Return path and info of each photo by its filename in the jobs, if it is usable."""
    index, paths = PhotoIndex(source, thumbnails=False), {}
    for filename in {pair.chosen_source.filename for pair in pairs}:
        try:
            paths[filename] = index.find(filename)[0]
        except PhotoError:
            continue
    infos = dict(scan_photos(sorted(set(paths.values())), cache))
    return {name: (path, infos[path]) for name, path in paths.items() if not infos[path].reason}


def find_held_out_duplicates(
    photos: PairPhotos, held_out_paths: Sequence[Path], image: Image, cache: Path
) -> set[str]:
    """Return the filenames of photos that are near-duplicates of a held-out photo."""
    held_out = [info for _, info in scan_photos(held_out_paths, cache) if not info.reason]
    infos = [*(info for _, info in photos.values()), *held_out]
    thumbnails = {info.sha256: info.thumbnail for info in infos}
    groups = group_near_duplicates(dict(sorted(thumbnails.items())), image)
    held_out_groups = {groups[info.sha256] for info in held_out}
    return {name for name, (_, info) in photos.items() if groups[info.sha256] in held_out_groups}


def select_usable_pairs(
    pairs: Sequence[PreferencePair],
    photos: PairPhotos,
    held_out_names: set[str],
    counts: Counter[str],
) -> list[PreferencePair]:
    """Return pairs with a photo that exists and is not held out; count the others."""
    usable_pairs = []
    for pair in pairs:
        name = pair.chosen_source.filename
        if name not in photos:
            counts["photograph_gone"] += 1
        elif name in held_out_names:
            counts["held_out"] += 1
        else:
            usable_pairs.append(pair)
    return usable_pairs


@dataclass(frozen=True)
class ExportSettings:
    advisor: str
    persona: str
    image: Image
    format: str  # one of EXPORT_FORMATS


def write_pairs(
    pairs: Sequence[PreferencePair], photos: PairPhotos, settings: ExportSettings, folder: Path
) -> Path:
    """Write rows and resized images without metadata; return the file of the rows."""
    build_row, suffix = EXPORT_FORMATS[settings.format]
    name = f"preferences_{settings.advisor}{suffix}"
    with atomic_folder(folder, EXPORT_PATTERNS) as staging:
        (staging / IMAGES).mkdir()
        rows = []
        for pair in pairs:
            path, info = photos[pair.chosen_source.filename]
            image_name = f"{info.sha256[:16]}.png"
            _write_image(path, settings.image, staging / IMAGES / image_name)
            row = build_row(row_messages(settings.persona, pair.chosen), pair)
            row["images"] = [(folder / IMAGES / image_name).as_posix()]
            row["provenance"] = _build_provenance(pair, settings.advisor, info.sha256)
            rows.append(row)
        _write_rows(staging / name, rows)
        if settings.format == "llama-factory":
            write_json(staging / "dataset_info.json", _describe_dataset(settings.advisor, name))
    return folder / name


def _build_trl_row(messages: list[dict[str, str]], pair: PreferencePair) -> dict[str, Any]:
    def with_parts(message: dict[str, Any]) -> dict[str, Any]:
        """Return the message with a list as content: a column of a table has one type."""
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        return {"role": message["role"], "content": parts}

    return {
        "prompt": [with_parts(message) for message in chat_messages(messages[:-1])],
        "chosen": [with_parts({"role": "assistant", "content": pair.chosen})],
        "rejected": [with_parts({"role": "assistant", "content": pair.rejected})],
    }


def _build_llama_factory_row(
    messages: list[dict[str, str]], pair: PreferencePair
) -> dict[str, Any]:
    return {
        "conversations": [
            {"from": _SHAREGPT_ROLES[m["role"]], "value": m["content"]} for m in messages[:-1]
        ],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
    }


def _build_ms_swift_row(messages: list[dict[str, str]], pair: PreferencePair) -> dict[str, Any]:
    return {"messages": messages, "rejected_response": pair.rejected}


RowBuilder = Callable[[list[dict[str, str]], PreferencePair], dict[str, Any]]
EXPORT_FORMATS: dict[str, tuple[RowBuilder, str]] = {
    "trl": (_build_trl_row, ".jsonl"),
    "llama-factory": (_build_llama_factory_row, ".json"),
    "ms-swift": (_build_ms_swift_row, ".jsonl"),
}


def _describe_dataset(advisor: str, file_name: str) -> dict[str, Any]:
    columns = {name: name for name in ("chosen", "rejected", "images")}
    description = {
        "file_name": file_name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations"} | columns,
    }
    return {f"preferences_{advisor}": description}


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


def _write_image(photo: Path, image: Image, path: Path) -> None:
    if path.exists():
        return
    try:
        pixels = read_photo(photo)
    except PhotoError as error:
        raise DataError(f"{photo}: {error}; it changed during this run: run again") from None
    resize_to_fit(pixels, image.min_pixels, image.max_pixels).save(path)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    is_list = path.suffix == ".json"
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n" if is_list else "\n".join(lines) + "\n")
