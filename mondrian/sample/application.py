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
from mondrian.core.files import whole_folder, write_json
from mondrian.critique.rejection import Reason
from mondrian.critique.schema import Critique, canonical
from mondrian.sample.application_state import World, write_database
from mondrian.sample.corruptions import (
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    MESSES,
    example_prompt,
    html_cards,
    with_scores,
)
from mondrian.sample.scene import draw_scene, render

OUTPUT = Path("data/sample/mondrian")
WRITTEN = ("mondrian.db", "source/*", "analysis_md/*", "analysis/*", "truth.json")
PHOTOS = 200
CLEAN = {"ansel": range(80), "okeefe": range(60, 140)}  # some photographs have both
MESSY = {"ansel": range(140, 170), "okeefe": range(170, 200)}
ASKED_ALL = range(60, 64)  # one job for both advisors
_FORMS = ("response", "by_advisor", "fenced", "headed", "md_file", "md_path")
_EXIF_ORIENTATION = 0x0112
_TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}  # stored, to be undone


def write_application(folder: Path, seed: int) -> None:
    """Write the whole application into `folder`, all or nothing."""
    with whole_folder(folder, WRITTEN) as beside:
        for name in ("source", "analysis_md", "analysis"):
            (beside / name).mkdir()
        world = World(seed, beside, Random(seed))
        _write_photos(world)
        for advisor in CLEAN:
            _clean_jobs(world, advisor)
            _messy_jobs(world, advisor)
            _wrong_pictures(world, advisor)
            _unfinished_jobs(world, advisor)
        _asked_all(world)
        write_database(world)
        write_json(beside / "truth.json", {"photos": PHOTOS, "jobs": world.truth})


def _write_photos(world: World) -> None:
    jobs = []
    for photo in range(PHOTOS):
        tail = f"{world.rng.getrandbits(32):08x}"
        style = photo % 4
        name = (
            f"photo-{str(UUID(int=world.rng.getrandbits(128))).upper()}-{tail}.jpg",
            f"photo-{tail}.jpg",
            f"mike-shrub-{tail}.jpg",
            f"IMG_{4000 + photo}.jpg",
        )[style]
        world.names[photo] = name
        jobs.append((world.seed, photo, world.folder / "source" / name))
    with get_context("spawn").Pool() as pool:
        for _ in tqdm(pool.imap(_write_photo, jobs, chunksize=5), "render", PHOTOS, unit="photo"):
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


def _stored_name(world: World, photo: int) -> str:
    """The name as a row has it: bare, as an upload, or an absolute path of another system."""
    name = world.names[photo]
    if photo % 4 == 3:
        return f"uploads/{world.new_id()}_{name}"
    return {7: f"C:\\Users\\photo\\source\\{name}", 9: f"/Users/photo/source/{name}"}.get(
        photo % 11, name
    )


def _clean_jobs(world: World, advisor: str) -> None:
    for k, photo in enumerate(CLEAN[advisor]):
        if photo in ASKED_ALL:
            continue
        critique = world.critique(advisor, photo)
        _add_form(world, advisor, photo, critique, _FORMS[k % len(_FORMS)])
        if k % 20 == 19:  # uploaded again under another name, re-encoded, same answer
            world.rows[-1]["created_at"] = "2025-12-31T00:00:00"  # the first of the two
            copy = f"copy-{world.names[photo]}"
            with Image.open(world.folder / "source" / world.names[photo]) as picture:
                turned = picture.transpose(Image.Transpose.ROTATE_90) if k % 40 == 39 else picture
                turned.save(world.folder / "source" / copy, quality=70)  # its EXIF is lost
            world.add(advisor, copy, Reason.DUPLICATE, analysis_markdown=canonical(critique))


def _add_form(world: World, advisor: str, photo: int, critique: Critique, form: str) -> None:
    text, filename, job = canonical(critique), _stored_name(world, photo), world.new_id()
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
    world.add(advisor, filename, "linked", id=job, **columns)


def _messy_jobs(world: World, advisor: str) -> None:
    photos = list(MESSY[advisor])
    for mess in MESSES:
        for _ in range(mess.count):
            photo = photos[0]
            photos.append(photos.pop(0))
            text = mess.text(world.critique(advisor, photo))
            name = world.names[photo]
            if mess.reason is None:
                name = _own_photo(world, advisor)
                text = mess.text(world.critique(advisor, PHOTOS + len(world.rows)))
            text = text.replace('data-advisor="sample"', f'data-advisor="{advisor}"')
            column = "analysis_html" if mess.name == "html_column" else "analysis_markdown"
            world.add(advisor, name, mess.reason or "linked", **{column: text})
    _suspicious_jobs(world, advisor, photos)
    _pictureless_jobs(world, advisor, photos)
    _html_files(world, advisor, photos)


def _own_photo(world: World, advisor: str) -> str:
    """A photograph of its own for the job that is about to be added."""
    photo = PHOTOS + len(world.rows)
    name = f"photo-{advisor}-{photo}.jpg"
    render(draw_scene(world.seed, photo)).save(world.folder / "source" / name, quality=90)
    return name


def _suspicious_jobs(world: World, advisor: str, photos: list[int]) -> None:
    for photo in photos[:6]:
        critique = world.critique(advisor, photo)
        text = canonical(with_scores(critique, EXAMPLE_SCORES, EXAMPLE_OVERALL))
        prompt = example_prompt()
        world.add(
            advisor, world.names[photo], Reason.TEMPLATE_SCORES,
            analysis_markdown=text, prompt=prompt,
        )  # fmt: skip
    for photo in photos[6:9]:
        text = canonical(world.critique(advisor, photo))
        world.add(
            advisor, world.names[photo], Reason.MADE_BY_ADAPTER,
            analysis_markdown=text, mode="lora", adapter="models/old",
        )  # fmt: skip
    shared = canonical(world.critique(advisor, 1000 + photos[9]))
    for photo in photos[9:13]:
        world.add(advisor, world.names[photo], Reason.SHARED_TEXT, analysis_markdown=shared)


def _pictureless_jobs(world: World, advisor: str, photos: list[int]) -> None:
    source = world.folder / "source"
    Image.new("RGB", (1, 1), "white").save(source / f"dot-{advisor}.png")
    Image.new("RGB", (640, 512), (200, 20, 20)).save(source / f"red-{advisor}.png")
    whole = (source / world.names[photos[0]]).read_bytes()
    (source / f"cut-{advisor}.jpg").write_bytes(whole[: len(whole) // 2])
    kinds = [
        (f"photo-{i:08x}.jpg", Reason.IMAGE_MISSING) for i in range(4)
    ] + [
        ("../mondrian.db", Reason.IMAGE_MISSING),
        (f"dot-{advisor}.png", Reason.IMAGE_TOO_SMALL),
        (f"red-{advisor}.png", Reason.IMAGE_BLANK),
        (f"cut-{advisor}.jpg", Reason.IMAGE_UNREADABLE),
    ]  # fmt: skip
    for k, (name, reason) in enumerate(kinds):
        text = canonical(world.critique(advisor, 2000 + photos[k]))
        world.add(advisor, name, reason, analysis_markdown=text)


def _html_files(world: World, advisor: str, photos: list[int]) -> None:
    for photo in photos[13:16]:
        job, name = world.new_id(), world.names[photo]
        file = f"analysis-{Path(name).stem[:10]}-{job[:6]}.html"
        html = html_cards(world.critique(advisor, photo)).replace("sample", advisor, 1)
        (world.folder / "analysis" / file).write_text(html)
        world.add(advisor, name, "linked", id=job)


def _wrong_pictures(world: World, advisor: str) -> None:
    """One portrait saved for every job, under five critiques of other photographs."""
    portrait = render(draw_scene(world.seed, 3000 + len(advisor)))
    for i in range(5):
        name = f"portrait-{advisor}-{i}.jpg"
        portrait.save(world.folder / "source" / name, quality=90 - 5 * i)
        text = canonical(world.critique(advisor, 3100 + i))
        world.add(advisor, name, Reason.WRONG_PICTURE, analysis_markdown=text)


def _unfinished_jobs(world: World, advisor: str) -> None:
    for status in ("failed", "error", "queued", "queued", "analyzing", "pending", "thinking"):
        job = world.add(advisor, world.names[0], "", status=status, retry_count=1, error="timeout")
        del world.truth[advisor][job]


def _asked_all(world: World) -> None:
    for photo in ASKED_ALL:
        outputs = {a: canonical(world.critique(a, photo)) for a in CLEAN}
        silent = list(CLEAN)[photo % 2] if photo == ASKED_ALL[-1] else ""
        outputs.pop(silent, None)
        field = "all" if photo % 2 else ", ".join(CLEAN)
        job = world.add(field, world.names[photo], "", llm_outputs=json.dumps(outputs))
        del world.truth[field]
        for advisor in CLEAN:
            expect = Reason.ADVISOR_ABSENT if advisor == silent else "linked"
            world.truth[advisor][job] = expect


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample application.")
    parser.add_argument("--output_dir", type=Path, default=OUTPUT)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    write_application(args.output_dir, args.seed)


if __name__ == "__main__":
    run(main)
