"""The sample world: scenes that show their truth, tastes and voices that differ, the base."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import row_messages
from mondrian.critique.schema import is_schema_valid, serialize_critique, validate_critique
from mondrian.model import vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.model.vlm import encode_image, prompt_ids
from mondrian.sample.application import CLEAN_PHOTOS, NUM_PHOTOS
from mondrian.sample.corpus import generate_persona
from mondrian.sample.pretrain_model import extract_patches
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.scoring import TASTES, score_scene
from mondrian.sample.writing_style import WRITING_STYLES, write_critique
from tests.conftest import ROOT, SAMPLE_SEED

BASE = ROOT / "models/base/mondrian-tiny"


def test_a_scene_is_the_same_twice_and_another_seed_is_another() -> None:
    assert (
        render(draw_scene(3, 1), 160, 128).tobytes() == render(draw_scene(3, 1), 160, 128).tobytes()
    )
    assert draw_scene(3, 1) != draw_scene(3, 2)


def test_the_picture_shows_the_light_the_tones_and_the_colour() -> None:
    scenes = [draw_scene(4, i) for i in range(60)]
    pictures = [np.asarray(render(s, 160, 128), float) for s in scenes]
    grey = [p @ (0.299, 0.587, 0.114) for p in pictures]
    seen = {
        "light": [g.mean() for g in grey],
        "tone": [g.std() for g in grey],
        "colour": [np.ptp(p, axis=2).mean() for p in pictures],
        "sharpness": [np.log(np.abs(np.diff(g, axis=1)).mean() / g.std()) for g in grey],
    }
    for name, values in seen.items():
        truth = [getattr(s, name) for s in scenes]
        assert np.corrcoef(truth, values)[0, 1] > (0.9 if name in ("light", "tone") else 0.55), name


def test_tastes_differ_from_the_base_and_from_each_other() -> None:
    scenes = [draw_scene(4, i) for i in range(200)]
    told = {
        name: np.array([score_scene(taste, s) for s in scenes]) for name, taste in TASTES.items()
    }
    for one, other in (("ansel", "plain"), ("okeefe", "plain"), ("ansel", "okeefe")):
        assert np.abs(told[one] - told[other]).mean() > 2


def test_every_voice_writes_whole_critiques_of_its_own() -> None:
    for i in range(20):
        texts = [
            serialize_critique(write_critique(advisor, draw_scene(6, i)))
            for advisor in WRITING_STYLES
        ]
        assert all(serialize_critique(validate_critique(text)) == text for text in texts)
        assert len(set(texts)) == len(WRITING_STYLES)


@pytest.mark.slow
def test_the_application_is_laid_out_as_the_existing_one(application: Path) -> None:
    assert (application / "mondrian.db").stat().st_size > 100_000
    assert len(list((application / "source").iterdir())) > NUM_PHOTOS
    names = [p.name for p in (application / "analysis_md").iterdir()]
    assert all(name.startswith(("analysis-ansel-", "analysis-okeefe-")) for name in names)
    assert len(list((application / "analysis").glob("analysis-*.html"))) == 3 * len(CLEAN_PHOTOS)
    photo = next((application / "source").glob("IMG_40*.jpg"))
    with Image.open(photo) as shown:
        assert shown.format == "JPEG"
        assert max(shown.size) == 640


def test_pretraining_patches_are_those_of_the_processor(
    tiny: Any, photos: list[Image.Image]
) -> None:
    picture = resize_to_fit(photos[0], 4096, 20_480)
    theirs = np.array(tiny.processor.image_processor([picture])["pixel_values"])
    assert np.abs(theirs - np.array(extract_patches(np.asarray(picture)[None]))).max() < 1e-6


def test_the_base_is_small_and_loads_without_torch(tiny: Any) -> None:
    assert sum(f.stat().st_size for f in BASE.iterdir()) < 8_000_000
    config = json.loads((BASE / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert len(tiny.model.vision_tower.deepstack_merger_list) == 2
    card = (BASE / "README.md").read_text()
    assert "warm-up" in card
    assert "constant" in card


@pytest.mark.slow
@pytest.mark.long
def test_pretraining_runs_and_writes_a_base_that_loads(tmp_path: Path) -> None:
    """A few steps of it: the whole command, two processes and the card included."""
    command = [sys.executable, "-m", "mondrian.sample.pretrain", "--output_dir", tmp_path / "base"]
    few = ["--scenes", "60", "--warmup_steps", "2", "--steps", "3", "--refine_steps", "2"]
    run = subprocess.run(
        [str(c) for c in (*command, *few, "--held_out", "4")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = vlm.load(str(tmp_path / "base"))
    assert loaded.hash != vlm.base_hash(BASE)
    assert "60 rendered scenes" in (tmp_path / "base" / "README.md").read_text()


@pytest.mark.slow
def test_the_base_sees(base_vlm: Any) -> None:
    """Held-out scenes, any persona: whole critiques, nearer to the truth than a constant."""
    rng, told, wanted, compliant = np.random.default_rng(0), [], [], 0
    scenes = [draw_scene(SAMPLE_SEED, 5, i) for i in range(24)]
    seen = [encode_image(base_vlm, resize_to_fit(render(s), 4096, 20_480)) for s in scenes]
    messages = row_messages(generate_persona(rng), "")[:-1]
    prompts = [prompt_ids(base_vlm, messages, s) for s in seen]
    for scene, answer in zip(
        scenes, generate(base_vlm, prompts, seen, SamplingParams(600, 24)), strict=True
    ):
        if is_schema_valid(answer.text):
            compliant += 1
            told.append(validate_critique(answer.text).scores())
            wanted.append(score_scene(TASTES["plain"], scene))
    error = np.abs(np.array(told) - np.array(wanted)).mean()
    constant = np.abs(np.array(wanted) - np.mean(wanted, axis=0)).mean()
    assert compliant >= 22
    assert error < 0.8 * constant
