"""Write a sample of the existing application: photographs, mondrian.db, analyses, and the truth.

`python -m mondrian.sample.application` renders about 200 photographs and writes the jobs of two
advisors, clean and messy, as the application would have. truth.json beside it says what link has to
make of every job; only tests read it. A seed fixes every byte of every text and photograph.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import get_context
from pathlib import Path
from random import Random
from uuid import UUID

from PIL import Image
from tqdm import tqdm

from mondrian.core.errors import run
from mondrian.core.files import atomic_folder, write_json
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.sample.application_state import ApplicationState, write_database
from mondrian.sample.corruptions import (
    CORRUPTIONS,
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    build_example_prompt,
    render_html_cards,
    replace_scores,
)
from mondrian.sample.scene import draw_scene, render

OUTPUT = Path("data/sample/mondrian")
APPLICATION_FILE_PATTERNS = ("mondrian.db", "source/*", "analysis_md/*", "analysis/*", "truth.json")
NUM_PHOTOS = 200
CLEAN_PHOTOS = {"ansel": range(80), "okeefe": range(60, 140)}  # some photographs have both
CORRUPTED_PHOTOS = {"ansel": range(140, 170), "okeefe": range(170, 200)}
MULTI_ADVISOR_PHOTOS = range(60, 64)  # one job for both advisors
_STORAGE_FORMATS = ("response", "by_advisor", "fenced", "headed", "md_file", "md_path")
_EXIF_ORIENTATION = 0x0112
_TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}  # stored, to be undone


def write_application(folder: Path, seed: int) -> None:
    """Write the whole application into `folder`, all or nothing."""
    with atomic_folder(folder, APPLICATION_FILE_PATTERNS) as beside:
        for name in ("source", "analysis_md", "analysis"):
            (beside / name).mkdir()
        world = ApplicationState(seed, beside, Random(seed))
        _write_photos(world)
        for advisor in CLEAN_PHOTOS:
            _add_clean_jobs(world, advisor)
            _add_corrupted_jobs(world, advisor)
            _add_mismatched_photo_jobs(world, advisor)
            _add_unfinished_jobs(world, advisor)
        _add_multi_advisor_jobs(world)
        write_database(world)
        write_json(beside / "truth.json", {"photos": NUM_PHOTOS, "jobs": world.truth})


def _write_photos(world: ApplicationState) -> None:
    jobs = []
    for photo in range(NUM_PHOTOS):
        tail = f"{world.rng.getrandbits(32):08x}"
        style = photo % 4
        name = (
            f"photo-{str(UUID(int=world.rng.getrandbits(128))).upper()}-{tail}.jpg",
            f"photo-{tail}.jpg",
            f"mike-shrub-{tail}.jpg",
            f"IMG_{4000 + photo}.jpg",
        )[style]
        world.photo_names[photo] = name
        jobs.append((world.seed, photo, world.folder / "source" / name))
    with get_context("spawn").Pool() as pool:
        for _ in tqdm(
            pool.imap(_write_photo, jobs, chunksize=5), "render", NUM_PHOTOS, unit="photo"
        ):
            pass


def _write_photo(job: tuple[int, int, Path]) -> None:
    seed, photo, path = job
    picture = render(draw_scene(seed, photo))
    exif = Image.Exif()
    orientation = {0: 3, 5: 6}.get(photo % 10)  # two in ten lie on their side or head
    if orientation:
        picture = picture.transpose(_TURNS[orientation])
        exif[_EXIF_ORIENTATION] = orientation
    picture.save(path, quality=90, exif=exif)


def _stored_name(world: ApplicationState, photo: int) -> str:
    """The name as a row has it: bare, as an upload, or an absolute path of another system."""
    name = world.photo_names[photo]
    if photo % 4 == 3:
        return f"uploads/{world.new_id()}_{name}"
    return {7: f"C:\\Users\\photo\\source\\{name}", 9: f"/Users/photo/source/{name}"}.get(
        photo % 11, name
    )


def _add_clean_jobs(world: ApplicationState, advisor: str) -> None:
    for k, photo in enumerate(CLEAN_PHOTOS[advisor]):
        if photo in MULTI_ADVISOR_PHOTOS:
            continue
        critique = world.make_critique(advisor, photo)
        _add_clean_job(world, advisor, photo, critique, _STORAGE_FORMATS[k % len(_STORAGE_FORMATS)])
        if k % 20 == 19:  # uploaded again under another name, re-encoded, same answer
            world.rows[-1]["created_at"] = "2025-12-31T00:00:00"  # the first of the two
            copy = f"copy-{world.photo_names[photo]}"
            with Image.open(world.folder / "source" / world.photo_names[photo]) as picture:
                turned = picture.transpose(Image.Transpose.ROTATE_90) if k % 40 == 39 else picture
                turned.save(world.folder / "source" / copy, quality=70)  # its EXIF is lost
            world.add_job(
                advisor,
                copy,
                RejectionReason.DUPLICATE,
                analysis_markdown=serialize_critique(critique),
            )


def _add_clean_job(
    world: ApplicationState, advisor: str, photo: int, critique: Critique, form: str
) -> None:
    text, filename, job = serialize_critique(critique), _stored_name(world, photo), world.new_id()
    file = f"analysis-{advisor}-{job}.md"
    headed = f"# {advisor.title()} Analysis\n\n## Summary\nShort.\n\n## Full Analysis\n{text}\n"
    if form in ("md_file", "md_path"):
        (world.folder / "analysis_md" / file).write_text(headed)
    outputs = {"prompt": "", "response": text, "summary": "Short.", "model": "qwen3-vl:8b"}
    columns: dict[str, str | None] = {
        "response": {"llm_outputs": json.dumps(outputs), "analysis_markdown": headed},
        "by_advisor": {"llm_outputs": json.dumps({advisor: text})},
        "fenced": {"analysis_markdown": f"```json\n{text}\n```"},
        "headed": {"analysis_markdown": headed},
        "md_file": {"analysis_markdown": None},
        "md_path": {"analysis_markdown": f"mondrian/analysis_md/{file}"},
    }[form]  # type: ignore[assignment]
    world.add_job(advisor, filename, "linked", id=job, **columns)


def _add_corrupted_jobs(world: ApplicationState, advisor: str) -> None:
    photos = list(CORRUPTED_PHOTOS[advisor])
    for mess in CORRUPTIONS:
        for _ in range(mess.count):
            photo = photos[0]
            photos.append(photos.pop(0))
            text = mess.make_text(world.make_critique(advisor, photo))
            name = world.photo_names[photo]
            if mess.reason is None:
                name = _write_unique_photo(world, advisor)
                text = mess.make_text(world.make_critique(advisor, NUM_PHOTOS + len(world.rows)))
            text = text.replace('data-advisor="sample"', f'data-advisor="{advisor}"')
            column = "analysis_html" if mess.name == "html_column" else "analysis_markdown"
            world.add_job(advisor, name, mess.reason or "linked", **{column: text})
    _add_suspicious_jobs(world, advisor, photos)
    _add_unusable_photo_jobs(world, advisor, photos)
    _add_html_jobs(world, advisor, photos)


def _write_unique_photo(world: ApplicationState, advisor: str) -> str:
    """A photograph of its own for the job that is about to be added."""
    photo = NUM_PHOTOS + len(world.rows)
    name = f"photo-{advisor}-{photo}.jpg"
    render(draw_scene(world.seed, photo)).save(world.folder / "source" / name, quality=90)
    return name


def _add_suspicious_jobs(world: ApplicationState, advisor: str, photos: list[int]) -> None:
    for photo in photos[:6]:
        critique = world.make_critique(advisor, photo)
        text = serialize_critique(replace_scores(critique, EXAMPLE_SCORES, EXAMPLE_OVERALL))
        prompt = build_example_prompt()
        world.add_job(
            advisor,
            world.photo_names[photo],
            RejectionReason.TEMPLATE_SCORES,
            analysis_markdown=text,
            prompt=prompt,
        )
    for photo in photos[6:9]:
        text = serialize_critique(world.make_critique(advisor, photo))
        world.add_job(
            advisor,
            world.photo_names[photo],
            RejectionReason.MADE_BY_ADAPTER,
            analysis_markdown=text,
            mode="lora",
            adapter="models/old",
        )
    shared = serialize_critique(world.make_critique(advisor, 1000 + photos[9]))
    for photo in photos[9:13]:
        world.add_job(
            advisor, world.photo_names[photo], RejectionReason.SHARED_TEXT, analysis_markdown=shared
        )


def _add_unusable_photo_jobs(world: ApplicationState, advisor: str, photos: list[int]) -> None:
    source = world.folder / "source"
    Image.new("RGB", (1, 1), "white").save(source / f"dot-{advisor}.png")
    Image.new("RGB", (640, 512), (200, 20, 20)).save(source / f"red-{advisor}.png")
    whole = (source / world.photo_names[photos[0]]).read_bytes()
    (source / f"cut-{advisor}.jpg").write_bytes(whole[: len(whole) // 2])
    kinds = [(f"photo-{i:08x}.jpg", RejectionReason.IMAGE_MISSING) for i in range(4)] + [
        ("../mondrian.db", RejectionReason.IMAGE_MISSING),
        (f"dot-{advisor}.png", RejectionReason.IMAGE_TOO_SMALL),
        (f"red-{advisor}.png", RejectionReason.IMAGE_BLANK),
        (f"cut-{advisor}.jpg", RejectionReason.IMAGE_UNREADABLE),
    ]
    for k, (name, reason) in enumerate(kinds):
        text = serialize_critique(world.make_critique(advisor, 2000 + photos[k]))
        world.add_job(advisor, name, reason, analysis_markdown=text)


def _add_html_jobs(world: ApplicationState, advisor: str, photos: list[int]) -> None:
    for photo in photos[13:16]:
        job, name = world.new_id(), world.photo_names[photo]
        file = f"analysis-{Path(name).stem[:10]}-{job[:6]}.html"
        html = render_html_cards(world.make_critique(advisor, photo)).replace("sample", advisor, 1)
        (world.folder / "analysis" / file).write_text(html)
        world.add_job(advisor, name, "linked", id=job)


def _add_mismatched_photo_jobs(world: ApplicationState, advisor: str) -> None:
    """One portrait saved for every job, under five critiques of other photographs."""
    portrait = render(draw_scene(world.seed, 3000 + len(advisor)))
    for i in range(5):
        name = f"portrait-{advisor}-{i}.jpg"
        portrait.save(world.folder / "source" / name, quality=90 - 5 * i)
        text = serialize_critique(world.make_critique(advisor, 3100 + i))
        world.add_job(advisor, name, RejectionReason.WRONG_PICTURE, analysis_markdown=text)


def _add_unfinished_jobs(world: ApplicationState, advisor: str) -> None:
    for status in ("failed", "error", "queued", "queued", "analyzing", "pending", "thinking"):
        job = world.add_job(
            advisor, world.photo_names[0], "", status=status, retry_count=1, error="timeout"
        )
        del world.truth[advisor][job]


def _add_multi_advisor_jobs(world: ApplicationState) -> None:
    for photo in MULTI_ADVISOR_PHOTOS:
        outputs = {a: serialize_critique(world.make_critique(a, photo)) for a in CLEAN_PHOTOS}
        silent = list(CLEAN_PHOTOS)[photo % 2] if photo == MULTI_ADVISOR_PHOTOS[-1] else ""
        outputs.pop(silent, None)
        field = "all" if photo % 2 else ", ".join(CLEAN_PHOTOS)
        job = world.add_job(field, world.photo_names[photo], "", llm_outputs=json.dumps(outputs))
        del world.truth[field]
        for advisor in CLEAN_PHOTOS:
            expect = RejectionReason.ADVISOR_ABSENT if advisor == silent else "linked"
            world.truth[advisor][job] = expect


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample application.")
    parser.add_argument("--output_dir", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    write_application(args.output_dir, args.seed)


if __name__ == "__main__":
    run(main)
