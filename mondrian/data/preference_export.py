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
from mondrian.core.files import whole_folder, write_json, writing
from mondrian.core.images import fit, read_photo
from mondrian.core.params import Image
from mondrian.critique.prompt import chat_messages, row_messages
from mondrian.data.dataset_filters import pictures
from mondrian.data.photo_index import Album
from mondrian.data.photo_scan import Look, look_all
from mondrian.data.preference_pairs import Pair

IMAGES = "images"
OWN = (f"{IMAGES}/{'[0-9a-f]' * 16}.png", "preferences_*.json*", "dataset_info.json")
_FROM = {"system": "system", "user": "human", "assistant": "gpt"}  # in LLaMA-Factory
Make = Callable[[list[dict[str, str]], Pair], dict[str, Any]]


def photographs(pairs: Iterable[Pair], source: Path, cache: Path) -> dict[str, tuple[Path, Look]]:
    """The photograph that each job's filename names, and its look; without those that are gone."""
    album, paths = Album(source, thumbnails=False), {}
    for filename in {pair.better.filename for pair in pairs}:
        try:
            paths[filename] = album.find(filename)[0]
        except PhotoError:
            continue
    looks = dict(look_all(sorted(set(paths.values())), cache))
    found = {name: (path, looks[path]) for name, path in paths.items()}
    return {name: (path, look) for name, (path, look) in found.items() if not look.reason}


def resembling(
    photos: Mapping[str, tuple[Path, Look]], held: Sequence[Path], image: Image, cache: Path
) -> set[str]:
    """Names of photographs that show what one of the held-out pictures shows."""
    out = [look for _, look in look_all(held, cache) if not look.reason]
    seen = {look.sha256: look.thumbnail for look in (*(look for _, look in photos.values()), *out)}
    shows = pictures(dict(sorted(seen.items())), image)
    kept_out = {shows[look.sha256] for look in out}
    return {name for name, (_, look) in photos.items() if shows[look.sha256] in kept_out}


def usable(
    pairs: Sequence[Pair], photos: Mapping[str, tuple[Path, Look]], held: set[str],
    counts: Counter[str],
) -> list[Pair]:  # fmt: skip
    """Pairs whose photograph is there and is not held out; the others are counted."""
    kept = []
    for pair in pairs:
        name = pair.better.filename
        why = "photograph_gone" if name not in photos else "held_out" if name in held else ""
        if why:
            counts[why] += 1
        else:
            kept.append(pair)
    return kept


def write_pairs(
    pairs: Sequence[Pair], photos: Mapping[str, tuple[Path, Look]], advisor: str, persona: str,
    image: Image, form: str, folder: Path,
) -> Path:  # fmt: skip
    """Write the rows, and their pictures at the one size, without metadata; the file of the rows.

    form  one of FORMATS
    """
    make, ending = FORMATS[form]
    name = f"preferences_{advisor}{ending}"
    with whole_folder(folder, OWN) as beside:
        (beside / IMAGES).mkdir()
        rows = []
        for pair in pairs:
            path, look = photos[pair.better.filename]
            picture = f"{look.sha256[:16]}.png"
            _write_picture(path, image, beside / IMAGES / picture)
            row = make(row_messages(persona, pair.chosen), pair)
            row["images"] = [(folder / IMAGES / picture).as_posix()]
            rows.append(row | {"provenance": _provenance(pair, advisor, look.sha256)})
        _write_rows(beside / name, rows)
        if form == "llama-factory":
            write_json(beside / "dataset_info.json", {f"preferences_{advisor}": _told_of(name)})
    return folder / name


def _trl(messages: list[dict[str, str]], pair: Pair) -> dict[str, Any]:
    def parts(text: str) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    prompt = [
        # Every content a list: a column of a table has one type.
        m if isinstance(m["content"], list)
        else {"role": m["role"], "content": [{"type": "text", "text": m["content"]}]}
        for m in chat_messages(messages[:-1])
    ]  # fmt: skip
    return {"prompt": prompt, "chosen": parts(pair.chosen), "rejected": parts(pair.rejected)}


def _llama_factory(messages: list[dict[str, str]], pair: Pair) -> dict[str, Any]:
    told = [{"from": _FROM[m["role"]], "value": m["content"]} for m in messages[:-1]]
    chosen, rejected = ({"from": "gpt", "value": text} for text in (pair.chosen, pair.rejected))
    return {"conversations": told, "chosen": chosen, "rejected": rejected}


def _ms_swift(messages: list[dict[str, str]], pair: Pair) -> dict[str, Any]:
    return {"messages": messages, "rejected_response": pair.rejected}


FORMATS: dict[str, tuple[Make, str]] = {
    "trl": (_trl, ".jsonl"), "llama-factory": (_llama_factory, ".json"),
    "ms-swift": (_ms_swift, ".jsonl"),
}  # fmt: skip


def _told_of(name: str) -> dict[str, Any]:
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected",
               "images": "images"}  # fmt: skip
    return {"file_name": name, "formatting": "sharegpt", "ranking": True, "columns": columns}


def _provenance(pair: Pair, advisor: str, photo: str) -> dict[str, Any]:
    better, worse = pair.better, pair.worse
    return {
        "why": pair.why, "advisor": advisor, "photo": photo, "who": better.who,
        "chosen_job": better.job, "chosen_by": better.arm, "chosen_version": better.version,
        "rejected_job": worse.job, "rejected_by": worse.arm, "rejected_version": worse.version,
    }  # fmt: skip


def _write_picture(path: Path, image: Image, to: Path) -> None:
    if to.exists():
        return
    try:
        picture = read_photo(path)
    except PhotoError as error:
        raise DataError(f"{path}: {error}; it was whole a moment ago: run again") from None
    fit(picture, image.min_pixels, image.max_pixels).save(to)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    whole = path.suffix == ".json"
    with writing(path) as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n" if whole else "\n".join(lines) + "\n")
