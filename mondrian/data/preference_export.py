"""Pairs of critiques -> rows and pictures as TRL, LLaMA-Factory or ms-swift read them.

TRL: docs/source/dataset_formats.md, conversational preference with images (as trl-lib/rlaif-v).
LLaMA-Factory: src/llamafactory/data/converter.py, SharegptDatasetConverter with `ranking`.
ms-swift: docs/source_en/Customization/Custom-dataset.md, `rejected_response`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mondrian.core.errors import DataError, PhotoError
from mondrian.core.files import atomic_folder, open_atomic, write_json
from mondrian.core.images import read_photo, resize_to_fit
from mondrian.core.params import Image
from mondrian.critique.prompt import chat_messages, row_messages
from mondrian.data.dataset_filters import group_near_duplicates
from mondrian.data.photo_index import PhotoIndex
from mondrian.data.photo_scan import PhotoInfo, scan_photos
from mondrian.data.preference_pairs import PreferencePair

IMAGES = "images"
EXPORT_PATTERNS = (f"{IMAGES}/{'[0-9a-f]' * 16}.png", "preferences_*.json*", "dataset_info.json")
_SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}  # in LLaMA-Factory
RowBuilder = Callable[[list[dict[str, str]], PreferencePair], dict[str, Any]]


def find_pair_photos(
    pairs: Iterable[PreferencePair], source: Path, cache: Path
) -> dict[str, tuple[Path, PhotoInfo]]:
    """The photograph that each job's filename names, and its look; without those that are gone."""
    album, paths = PhotoIndex(source, thumbnails=False), {}
    for filename in {pair.chosen_source.filename for pair in pairs}:
        try:
            paths[filename] = album.find(filename)[0]
        except PhotoError:
            continue
    looks = dict(scan_photos(sorted(set(paths.values())), cache))
    photos = {name: (path, looks[path]) for name, path in paths.items()}
    return {name: (path, look) for name, (path, look) in photos.items() if not look.reason}


def find_held_out_duplicates(
    photos: Mapping[str, tuple[Path, PhotoInfo]],
    held_out_paths: Sequence[Path],
    image: Image,
    cache: Path,
) -> set[str]:
    """Names of photographs that show what one of the held-out pictures shows."""
    out = [look for _, look in scan_photos(held_out_paths, cache) if not look.reason]
    thumbnails = {
        look.sha256: look.thumbnail for look in (*(look for _, look in photos.values()), *out)
    }
    shows = group_near_duplicates(dict(sorted(thumbnails.items())), image)
    kept_out = {shows[look.sha256] for look in out}
    return {name for name, (_, look) in photos.items() if shows[look.sha256] in kept_out}


def select_usable_pairs(
    pairs: Sequence[PreferencePair],
    photos: Mapping[str, tuple[Path, PhotoInfo]],
    held_out_names: set[str],
    counts: Counter[str],
) -> list[PreferencePair]:
    """Pairs whose photograph is there and is not held out; the others are counted."""
    usable_pairs = []
    for pair in pairs:
        name = pair.chosen_source.filename
        why = (
            "photograph_gone"
            if name not in photos
            else "held_out"
            if name in held_out_names
            else ""
        )
        if why:
            counts[why] += 1
        else:
            usable_pairs.append(pair)
    return usable_pairs


def write_pairs(
    pairs: Sequence[PreferencePair],
    photos: Mapping[str, tuple[Path, PhotoInfo]],
    advisor: str,
    persona: str,
    image: Image,
    form: str,
    folder: Path,
) -> Path:
    """Write the rows, and their pictures at the one size, without metadata; the file of the rows.

    form  one of FORMATS
    """
    make, ending = EXPORT_FORMATS[form]
    name = f"preferences_{advisor}{ending}"
    with atomic_folder(folder, EXPORT_PATTERNS) as beside:
        (beside / IMAGES).mkdir()
        rows = []
        for pair in pairs:
            path, look = photos[pair.chosen_source.filename]
            picture = f"{look.sha256[:16]}.png"
            _write_picture(path, image, beside / IMAGES / picture)
            row = make(row_messages(persona, pair.chosen), pair)
            row["images"] = [(folder / IMAGES / picture).as_posix()]
            rows.append(row | {"provenance": _provenance(pair, advisor, look.sha256)})
        _write_rows(beside / name, rows)
        if form == "llama-factory":
            write_json(
                beside / "dataset_info.json", {f"preferences_{advisor}": _describe_dataset(name)}
            )
    return folder / name


def _trl(messages: list[dict[str, str]], pair: PreferencePair) -> dict[str, Any]:
    def parts(text: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    prompt = [
        # Every content a list: a column of a table has one type.
        m
        if isinstance(m["content"], list)
        else {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]}
        for m in chat_messages(messages[:-1])
    ]
    return {"prompt": prompt, "chosen": parts(pair.chosen), "rejected": parts(pair.rejected)}


def _llama_factory(messages: list[dict[str, str]], pair: PreferencePair) -> dict[str, Any]:
    turns = [{"from": _SHAREGPT_ROLES[m["role"]], "value": m["content"]} for m in messages[:-1]]
    chosen, rejected = ({"from": "gpt", "value": text} for text in (pair.chosen, pair.rejected))
    return {"conversations": turns, "chosen": chosen, "rejected": rejected}


def _ms_swift(messages: list[dict[str, str]], pair: PreferencePair) -> dict[str, Any]:
    return {"messages": messages, "rejected_response": pair.rejected}


EXPORT_FORMATS: dict[str, tuple[RowBuilder, str]] = {
    "trl": (_trl, ".jsonl"),
    "llama-factory": (_llama_factory, ".json"),
    "ms-swift": (_ms_swift, ".jsonl"),
}


def _describe_dataset(name: str) -> dict[str, Any]:
    columns = {
        "messages": "conversations",
        "chosen": "chosen",
        "rejected": "rejected",
        "images": "images",
    }
    return {"file_name": name, "formatting": "sharegpt", "ranking": True, "columns": columns}


def _provenance(pair: PreferencePair, advisor: str, photo: str) -> dict[str, Any]:
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


def _write_picture(path: Path, image: Image, to: Path) -> None:
    if to.exists():
        return
    try:
        picture = read_photo(path)
    except PhotoError as error:
        raise DataError(f"{path}: {error}; it was whole a moment ago: run again") from None
    resize_to_fit(picture, image.min_pixels, image.max_pixels).save(to)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    whole = path.suffix == ".json"
    with open_atomic(path) as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n" if whole else "\n".join(lines) + "\n")
