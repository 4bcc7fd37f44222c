"""Write a sample of the existing application: photos, mondrian.db, analyses and expected outcomes.

`python -m mondrian.sample.application` renders about 200 photos and writes the jobs of two
advisors, clean and corrupted, as the application would have written them. truth.json holds the
outcome that link must report for each job; only tests read it. The seed determines every byte.
"""

import argparse
import json
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from PIL import Image

from mondrian.core.errors import run_command
from mondrian.core.files import open_atomic_folder, write_json
from mondrian.core.terminal import progress_bar
from mondrian.critique.rejection import RejectionReason
from mondrian.critique.schema import serialize_critique
from mondrian.sample.application_state import ApplicationState
from mondrian.sample.corruptions import (
    CORRUPTIONS,
    EXAMPLE_OVERALL,
    EXAMPLE_SCORES,
    build_example_prompt,
    render_html_cards,
    replace_scores,
)
from mondrian.sample.photos import FOLDERS, NUM_PHOTOS, write_copy, write_photo, write_raw
from mondrian.sample.scene import draw_scene, render

DEFAULT_FOLDER = Path("data/sample/mondrian")
APPLICATION_FILE_PATTERNS = ("mondrian.db", "source/*", "analysis_md/*", "analysis/*", "truth.json")
CLEAN_PHOTOS = {"ansel": range(80), "okeefe": range(60, 140)}  # some photos have both
CORRUPTED_PHOTOS = {"ansel": range(140, 170), "okeefe": range(170, 200)}
MULTI_ADVISOR_PHOTOS = range(60, 64)  # one job for both advisors
_STORAGE_FORMATS = ("response", "by_advisor", "fenced", "headed", "md_file", "md_path")
_UNFINISHED = ("failed", "error", "queued", "queued", "analyzing", "pending", "thinking")


def write_application(folder: Path, seed: int) -> None:
    """Write the application into `folder`, all files or none."""
    with open_atomic_folder(folder, APPLICATION_FILE_PATTERNS) as staging:
        for name in ("source", "analysis_md", "analysis"):
            (staging / name).mkdir()
        app = ApplicationState(seed, staging, Random(seed))
        _write_photos(app)
        for advisor in CLEAN_PHOTOS:
            _add_clean_jobs(app, advisor)
            _add_corrupted_jobs(app, advisor)
            _add_mismatched_photo_jobs(app, advisor)
            _add_unfinished_jobs(app, advisor)
        _add_multi_advisor_jobs(app)
        app.write_database()
        write_json(staging / "truth.json", {"photos": NUM_PHOTOS, "jobs": app.truth})


def _write_photos(app: ApplicationState) -> None:
    tasks = []
    for photo in range(NUM_PHOTOS):
        suffix = f"{app.rng.getrandbits(32):08x}"
        app.photo_names[photo] = (
            f"photo-{str(UUID(int=app.rng.getrandbits(128))).upper()}-{suffix}.jpg",
            f"photo-{suffix}.jpg",
            f"mike-shrub-{suffix}.jpg",
            f"IMG_{4000 + photo}.jpg",
        )[photo % 4]
        if photo in FOLDERS:  # two folders have the same names
            app.photo_names[photo] = f"{FOLDERS[photo]}/IMG_{photo // 60:04}.jpg"
            (app.source / FOLDERS[photo]).mkdir(exist_ok=True)
        tasks.append((app.seed, photo, app.source / app.photo_names[photo]))
    with get_context("spawn").Pool() as pool:
        renders = pool.imap(write_photo, tasks, chunksize=5)
        list(progress_bar(renders, "render", NUM_PHOTOS, unit="photo"))


def _stored_name(app: ApplicationState, photo: int) -> str:
    """Return the name in a row: bare, as an upload, or an absolute path of another system."""
    name = app.photo_names[photo]
    if photo in FOLDERS:
        return f"/Users/photo/mondrian/source/{name}"
    if photo % 4 == 3:
        return f"uploads/{app.new_id()}_{name}"
    paths = {7: f"C:\\Users\\photo\\source\\{name}", 9: f"/Users/photo/source/{name}"}
    return paths.get(photo % 11, name)


def _add_clean_jobs(app: ApplicationState, advisor: str) -> None:
    for k, photo in enumerate(CLEAN_PHOTOS[advisor]):
        if photo in MULTI_ADVISOR_PHOTOS:
            continue
        text = app.make_text(advisor, photo)
        _add_clean_job(app, advisor, photo, text, _STORAGE_FORMATS[k % len(_STORAGE_FORMATS)])
        if k % 20 == 19:  # uploaded again under another name, re-encoded, with the same answer
            app.rows[-1]["created_at"] = "2025-12-31T00:00:00"  # the first of the two
            copy = f"copy-{app.photo_names[photo]}"
            write_copy(app.source / app.photo_names[photo], app.source / copy, k // 20)
            app.add_job(advisor, copy, RejectionReason.DUPLICATE, analysis_markdown=text)


def _add_clean_job(
    app: ApplicationState, advisor: str, photo: int, text: str, storage_format: str
) -> None:
    filename, job_id = _stored_name(app, photo), app.new_id()
    file = f"analysis-{advisor}-{job_id}.md"
    headed = f"# {advisor.title()} Analysis\n\n## Summary\nShort.\n\n## Full Analysis\n{text}\n"
    if storage_format in ("md_file", "md_path"):
        (app.folder / "analysis_md" / file).write_text(headed)
    outputs = {"prompt": "", "response": text, "summary": "Short.", "model": "qwen3-vl:8b"}
    columns: dict[str, dict[str, Any]] = {
        "response": {"llm_outputs": json.dumps(outputs), "analysis_markdown": headed},
        "by_advisor": {"llm_outputs": json.dumps({advisor: text})},
        "fenced": {"analysis_markdown": f"```json\n{text}\n```"},
        "headed": {"analysis_markdown": headed},
        "md_file": {"analysis_markdown": None},
        "md_path": {"analysis_markdown": f"mondrian/analysis_md/{file}"},
    }
    app.add_job(advisor, filename, "linked", id=job_id, **columns[storage_format])


def _add_corrupted_jobs(app: ApplicationState, advisor: str) -> None:
    photos = list(CORRUPTED_PHOTOS[advisor])
    for corruption in CORRUPTIONS:
        for _ in range(corruption.count):
            photos.append(photos.pop(0))
            photo, name = photos[-1], app.photo_names[photos[-1]]
            if corruption.reason is None:
                photo = NUM_PHOTOS + len(app.rows)  # linked: it needs a photo of its own
                name = f"photo-{advisor}-{photo}.jpg"
                render(draw_scene(app.seed, photo)).save(app.source / name, quality=90)
            text = corruption.make_text(app.make_critique(advisor, photo))
            text = text.replace('data-advisor="sample"', f'data-advisor="{advisor}"')
            column = "analysis_html" if corruption.name == "html_column" else "analysis_markdown"
            app.add_job(advisor, name, corruption.reason or "linked", **{column: text})
    _add_suspicious_jobs(app, advisor, photos)
    _add_unusable_photo_jobs(app, advisor, photos)
    _add_html_jobs(app, advisor, photos)


def _add_suspicious_jobs(app: ApplicationState, advisor: str, photos: list[int]) -> None:
    names, prompt = [app.photo_names[photo] for photo in photos], build_example_prompt()
    near_template = (EXAMPLE_SCORES[0] - 1, *EXAMPLE_SCORES[1:])
    for start, scores, reason in (
        (0, EXAMPLE_SCORES, RejectionReason.TEMPLATE_SCORES),
        (16, near_template, RejectionReason.CONSTANT_SCORES),
    ):
        for photo, name in zip(photos[start : start + 6], names[start:], strict=False):
            critique = app.make_critique(advisor, photo)
            text = serialize_critique(replace_scores(critique, scores, EXAMPLE_OVERALL))
            columns = {"analysis_markdown": text, "prompt": prompt}
            app.add_job(advisor, name, reason, **columns)
    for photo, name in zip(photos[6:9], names[6:], strict=False):
        columns = {"analysis_markdown": app.make_text(advisor, photo)}
        columns |= {"mode": "lora", "adapter": "models/old"}
        app.add_job(advisor, name, RejectionReason.MADE_BY_ADAPTER, **columns)
    shared = app.make_text(advisor, 1000 + photos[9])
    for name in names[9:13]:
        app.add_job(advisor, name, RejectionReason.SHARED_TEXT, analysis_markdown=shared)


def _add_unusable_photo_jobs(app: ApplicationState, advisor: str, photos: list[int]) -> None:
    Image.new("RGB", (1, 1), "white").save(app.source / f"dot-{advisor}.png")
    Image.new("RGB", (640, 512), (200, 20, 20)).save(app.source / f"red-{advisor}.png")
    content = (app.source / app.photo_names[photos[0]]).read_bytes()
    (app.source / f"cut-{advisor}.jpg").write_bytes(content[: len(content) // 2])
    write_raw(app.source / app.photo_names[photos[1]], app.source / f"raw-{advisor}.dng")
    files = [(f"photo-{i:08x}.jpg", RejectionReason.IMAGE_MISSING) for i in range(4)] + [
        ("../mondrian.db", RejectionReason.IMAGE_MISSING),
        (f"dot-{advisor}.png", RejectionReason.IMAGE_TOO_SMALL),
        (f"red-{advisor}.png", RejectionReason.IMAGE_BLANK),
        (f"cut-{advisor}.jpg", RejectionReason.IMAGE_UNREADABLE),
        (f"raw-{advisor}.dng", RejectionReason.IMAGE_RAW),
        ("2023/IMG_4007.jpg", RejectionReason.IMAGE_MISSING),  # IMG_4007.jpg is another photo
        ("IMG_0000.jpg", RejectionReason.IMAGE_AMBIGUOUS),  # that of 2023 or of 2024
    ]
    for (name, reason), photo in zip(files, photos, strict=False):
        text = app.make_text(advisor, 2000 + photo)
        app.add_job(advisor, name, reason, analysis_markdown=text)


def _add_html_jobs(app: ApplicationState, advisor: str, photos: list[int]) -> None:
    for photo in photos[13:16]:
        job_id, name = app.new_id(), app.photo_names[photo]
        file = f"analysis-{Path(name).stem[:10]}-{job_id[:6]}.html"
        html = render_html_cards(app.make_critique(advisor, photo)).replace("sample", advisor, 1)
        (app.folder / "analysis" / file).write_text(html)
        app.add_job(advisor, name, "linked", id=job_id)


def _add_mismatched_photo_jobs(app: ApplicationState, advisor: str) -> None:
    """Add five uploads that were overwritten by one photo, with critiques of other photos."""
    image = render(draw_scene(app.seed, 3000 + len(advisor)))
    for i in range(5):
        name = f"portrait-{advisor}-{i}.jpg"
        image.save(app.source / name, quality=90)
        text = app.make_text(advisor, 3100 + i)
        app.add_job(advisor, name, RejectionReason.WRONG_PICTURE, analysis_markdown=text)


def _add_unfinished_jobs(app: ApplicationState, advisor: str) -> None:
    for status in _UNFINISHED:
        columns = {"status": status, "retry_count": 1, "error": "timeout"}
        job_id = app.add_job(advisor, app.photo_names[0], "", **columns)
        del app.truth[advisor][job_id]


def _add_multi_advisor_jobs(app: ApplicationState) -> None:
    for photo in MULTI_ADVISOR_PHOTOS:
        outputs = {advisor: app.make_text(advisor, photo) for advisor in CLEAN_PHOTOS}
        absent = list(CLEAN_PHOTOS)[photo % 2] if photo == MULTI_ADVISOR_PHOTOS[-1] else ""
        outputs.pop(absent, None)
        advisors = "all" if photo % 2 else ", ".join(CLEAN_PHOTOS)
        name = app.photo_names[photo]
        job_id = app.add_job(advisors, name, "", llm_outputs=json.dumps(outputs))
        del app.truth[advisors]
        for advisor in CLEAN_PHOTOS:
            outcome = RejectionReason.ADVISOR_ABSENT if advisor == absent else "linked"
            app.truth[advisor][job_id] = outcome


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the sample application.")
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    write_application(args.output_dir, args.seed)


if __name__ == "__main__":
    run_command(main)
