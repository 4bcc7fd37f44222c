"""The sample: scenes that show their attributes, advisors that differ, and the tiny base."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from mondrian.core.images import resize_to_fit
from mondrian.critique.prompt import build_row_messages
from mondrian.critique.schema import is_schema_valid, serialize_critique, validate_critique
from mondrian.model import vlm
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.generate import generate
from mondrian.model.vlm import encode_image, tokenize_prompt
from mondrian.sample.application import CLEAN_PHOTOS
from mondrian.sample.base_files import IMAGE_HEIGHT, IMAGE_WIDTH
from mondrian.sample.corpus import generate_persona
from mondrian.sample.model_card import TEMPLATE
from mondrian.sample.photos import NUM_PHOTOS
from mondrian.sample.pretrain_data import SURVEY_TOKENS, PretrainSettings
from mondrian.sample.pretrain_model import extract_patches
from mondrian.sample.scene import draw_scene, render
from mondrian.sample.scoring import TASTES, score_scene
from mondrian.sample.weights import BASE_WEIGHTS_FILE, build_model
from mondrian.sample.writing_style import WRITING_STYLES, write_critique
from tests.conftest import ROOT, SAMPLE_SEED
from tests.waiting import PATIENCE

BASE = ROOT / "models/base/mondrian-tiny"
BIAS = "vision_tower.blocks.0.mlp.linear_fc1.bias"


def test_a_seed_determines_the_scene() -> None:
    images = [render(draw_scene(3, 1), IMAGE_WIDTH, IMAGE_HEIGHT) for _ in range(2)]
    assert images[0].tobytes() == images[1].tobytes()
    assert draw_scene(3, 1) != draw_scene(3, 2)


@pytest.mark.slow
def test_a_scene_renders_to_the_same_bytes_on_an_older_processor() -> None:
    code = (
        "import hashlib; from mondrian.sample.scene import draw_scene, render; "
        "images = (render(draw_scene(1, i)).tobytes() for i in range(120)); "
        "print(hashlib.sha256(b''.join(images)).hexdigest())"
    )
    extensions: Any = np.show_config(mode="dicts")
    features = extensions["SIMD Extensions"].get("found", [])
    digests = []
    for disabled in ("", " ".join(features)):
        env = os.environ | {"PYTHONPATH": str(ROOT), "NPY_DISABLE_CPU_FEATURES": disabled}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
        digests.append(run.stdout)
    assert digests[0] == digests[1]


def test_an_image_shows_the_light_the_tones_the_color_and_the_sharpness() -> None:
    scenes = [draw_scene(4, i) for i in range(60)]
    images = [np.asarray(render(scene, IMAGE_WIDTH, IMAGE_HEIGHT), float) for scene in scenes]
    grey = [image @ (0.299, 0.587, 0.114) for image in images]
    measured = {
        "light": [g.mean() for g in grey],
        "tone": [g.std() for g in grey],
        "color": [np.ptp(image, axis=2).mean() for image in images],
        "sharpness": [np.log(np.abs(np.diff(g, axis=1)).mean() / g.std()) for g in grey],
    }
    for name, values in measured.items():
        attributes = [getattr(scene, name) for scene in scenes]
        min_correlation = 0.9 if name in ("light", "tone") else 0.55
        assert np.corrcoef(attributes, values)[0, 1] > min_correlation, name


def test_tastes_differ_from_the_base_and_from_each_other() -> None:
    scenes = [draw_scene(4, i) for i in range(200)]
    scores = {
        name: np.array([score_scene(taste, scene) for scene in scenes])
        for name, taste in TASTES.items()
    }
    for advisor, other in (("ansel", "plain"), ("okeefe", "plain"), ("ansel", "okeefe")):
        assert np.abs(scores[advisor] - scores[other]).mean() > 2


def test_every_style_writes_valid_critiques_of_its_own() -> None:
    for i in range(20):
        texts = [
            serialize_critique(write_critique(advisor, draw_scene(6, i)))
            for advisor in WRITING_STYLES
        ]
        assert all(serialize_critique(validate_critique(text)) == text for text in texts)
        assert len(set(texts)) == len(WRITING_STYLES)


@pytest.mark.slow
def test_the_sample_has_the_layout_of_the_existing_application(application: Path) -> None:
    assert (application / "mondrian.db").stat().st_size > 100_000
    assert len(list((application / "source").iterdir())) > NUM_PHOTOS
    names = [file.name for file in (application / "analysis_md").iterdir()]
    assert all(name.startswith(("analysis-ansel-", "analysis-okeefe-")) for name in names)
    assert len(list((application / "analysis").glob("analysis-*.html"))) == 3 * len(CLEAN_PHOTOS)
    photo = next((application / "source").glob("IMG_40*.jpg"))
    with Image.open(photo) as image:
        assert image.format == "JPEG"
        assert max(image.size) == 640


def test_pretraining_patches_equal_those_of_the_processor(
    tiny: Any, photos: list[Image.Image]
) -> None:
    image = resize_to_fit(photos[0], 4096, 20_480)
    expected = np.array(tiny.processor.image_processor([image])["pixel_values"])
    patches = np.array(extract_patches(np.asarray(image)[None]))
    assert np.abs(expected - patches).max() < 1e-6


def test_the_base_is_small_and_loads_without_torch(tiny: Any) -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 8_000_000
    config = json.loads((BASE / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    assert len(tiny.model.vision_tower.deepstack_merger_list) == 2
    card = (BASE / "README.md").read_text().lower()
    assert "warm-up" in card
    assert "constant" in card


def test_the_model_card_agrees_with_its_template() -> None:
    card, settings = (BASE / "README.md").read_text(), PretrainSettings()
    head, tail = TEMPLATE.read_text().split("{compliance:.1%}")
    size = {"width": IMAGE_WIDTH, "height": IMAGE_HEIGHT, "rows": 2 * settings.batch}
    values = vars(settings) | size | {"survey_tokens": SURVEY_TOKENS}
    assert card.startswith(head.format(**values))
    assert card.endswith(tail.split("{blind}")[1])


def pretrain(output_dir: Path, *options: object) -> None:
    command = [sys.executable, "-m", "mondrian.sample.pretrain", "--output_dir", output_dir]
    sizes = ["--scenes", "60", "--tower_steps", "2", "--survey_steps", "3", "--held_out", "4"]
    run = subprocess.run(
        [str(argument) for argument in (*command, *sizes, *options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.slow
def test_pretraining_runs_and_writes_a_base_that_loads(tmp_path: Path) -> None:
    """A few steps of the complete command, with two processes and the model card."""
    sizes = ["--warmup_steps", "2", "--steps", "3", "--refine_steps", "2"]
    pretrain(tmp_path / "base", *sizes)
    loaded = vlm.load(str(tmp_path / "base"))
    assert loaded.hash != vlm.base_hash(BASE)
    assert "60 rendered scenes" in (tmp_path / "base" / "README.md").read_text()


@pytest.mark.slow
def test_pretraining_continues_from_a_base_and_repeats_bit_by_bit(tmp_path: Path) -> None:
    for name in ("first", "second"):
        pretrain(tmp_path / name, "--continue_from", BASE)
    first, second, shipped = (
        load_file(Path(folder) / BASE_WEIGHTS_FILE)
        for folder in (tmp_path / "first", tmp_path / "second", BASE)
    )
    assert all((first[name] == second[name]).all() for name in shipped)
    change = max(float(np.abs(first[name] - shipped[name]).max()) for name in shipped)
    assert 0 < change < 0.05


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """Whatever MLX's own generator drew before: two ranks must begin with equal weights."""
    models = []
    for unrelated_seed, seed in ((5, 1), (6, 1), (5, 2)):
        mx.random.seed(unrelated_seed)
        models.append(dict(tree_flatten(build_model(BASE, seed).parameters())))
    first, second, other = models
    assert all((first[name] == second[name]).all() for name in first)
    assert not mx.array_equal(first[BIAS], other[BIAS])


def test_a_survey_is_the_start_of_a_critique_up_to_its_last_word() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(BASE)
    for i in range(20):
        text = serialize_critique(write_critique("plain", draw_scene(6, i)))
        start = tokenizer.decode(tokenizer(text)["input_ids"][:SURVEY_TOKENS])
        assert validate_critique(text).image_description in start


@pytest.mark.slow
def test_the_base_scores_better_than_a_constant(base_vlm: Any) -> None:
    """On held-out scenes, for any persona, with valid critiques."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(SAMPLE_SEED, 5, i) for i in range(24)]
    images = [resize_to_fit(render(scene), 4096, 20_480) for scene in scenes]
    features = [encode_image(base_vlm, image) for image in images]
    messages = build_row_messages(generate_persona(rng), "")[:-1]
    prompts = [tokenize_prompt(base_vlm, messages, image_features) for image_features in features]
    answers = generate(base_vlm, prompts, features, SamplingParams(600, 24))
    valid = [
        (validate_critique(answer.text).scores(), score_scene(TASTES["plain"], scene))
        for scene, answer in zip(scenes, answers, strict=True)
        if is_schema_valid(answer.text)
    ]
    predicted, true = (np.array(scores) for scores in zip(*valid, strict=True))
    error = np.abs(predicted - true).mean()
    constant = np.abs(true - np.mean(true, axis=0)).mean()
    assert len(valid) >= 22
    assert error < 0.8 * constant
