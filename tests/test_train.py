from collections import Counter
from pathlib import Path
from typing import Any

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from mondrian import lora
from mondrian.critique import canonical
from mondrian.errors import TrainingError
from mondrian.forward import hidden_states, logits, make_batch
from mondrian.params import Params
from mondrian.photo import fit
from mondrian.prompt import prompt_hash, row_messages
from mondrian.recipe import RECIPE, recipe, score_means
from mondrian.rows import Row
from mondrian.sample.scene import draw_scene
from mondrian.sample.voice import write
from mondrian.train import Example, _batches, _rate, examples, loss, save, scalar, train, validate

PERSONA = "You are Ansel Adams."


@pytest.fixture(scope="module")
def rows(photos: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("rows")
    out = []
    for i, photo in enumerate(photos[:5]):
        path = folder / f"{i}.png"
        fit(photo, 4096, 20_480).save(path)
        answer = canonical(write("ansel", draw_scene(5, i)))
        out.append(
            Row(
                messages=row_messages(PERSONA, answer), images=[str(path)], id=f"ansel/{i}",
                photo="", photo_group=str(i), prompt_hash=prompt_hash(PERSONA),
            )
        )  # fmt: skip
    return out


def test_the_loss_counts_the_answer_alone(plain: Any, rows: list[Row], params: Params) -> None:
    even = params.train.model_copy(update={"score_weight": 1.0})
    batch = examples(plain, rows[:2], even)
    total, count = loss(plain.model, batch, plain.image_id)
    wanted, tokens = 0.0, 0
    for example in batch:  # the plain way: logits everywhere, then only what answers
        inputs = make_batch([example.ids], [example.features], plain.image_id)
        told = logits(plain.model, hidden_states(plain.model, inputs))[0]
        answer = example.ids[example.start :]
        here = nn.losses.cross_entropy(told[example.start - 1 : -1], mx.array(answer))
        wanted, tokens = wanted + scalar(here.sum()), tokens + len(answer)
    assert round(scalar(count)) == tokens
    assert scalar(total) == pytest.approx(wanted, rel=1e-5)


def test_a_score_counts_more_than_a_word(plain: Any, rows: list[Row], params: Params) -> None:
    heavy = params.train.model_copy(update={"score_weight": 5.0})
    example = examples(plain, rows[:1], heavy)[0]
    answer = zip(example.ids[example.start :], example.weights, strict=True)
    digits = [plain.processor.tokenizer.decode([token]) for token, weight in answer if weight == 5]
    critique = rows[0].answer()
    told = "".join(f"{score:g}" for score in (*critique.scores(), critique.overall_score))
    assert "".join(digits) == told


def test_the_answer_ends_with_the_end_of_the_turn(
    plain: Any, rows: list[Row], params: Params
) -> None:
    example = examples(plain, rows[:1], params.train)[0]
    tokenizer = plain.processor.tokenizer
    assert example.ids[-1] == tokenizer.eos_token_id
    answer = tokenizer.decode(example.ids[example.start : -1])
    assert answer == rows[0].messages[-1]["content"]
    assert tokenizer.decode(example.ids[: example.start]).endswith("assistant\n")


def test_every_row_is_seen_each_epoch_in_a_new_order(params: Params) -> None:
    rows: Any = [Example([i], 0, None, []) for i in range(7)]  # type: ignore[arg-type]
    epochs = [[e.ids[0] for b in _batches(rows, params.train, n) for e in b] for n in (1, 2)]
    assert [Counter(epoch) for epoch in epochs] == [Counter(range(7))] * 2
    assert epochs[0] != epochs[1]


def test_the_rate_rises_and_falls(params: Params) -> None:
    rates = [_rate(params.train, step, 100) for step in range(100)]
    peak = params.train.learning_rate
    assert rates[0] < rates[5] < rates[9] == pytest.approx(peak)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1 * peak, rel=0.01)


def test_a_row_that_is_too_long_is_named(plain: Any, rows: list[Row], params: Params) -> None:
    short = params.train.model_copy(update={"max_tokens": 100})
    with pytest.raises(TrainingError, match=r"2 rows have more .*ansel/0 .*, ansel/1"):
        examples(plain, rows[:2], short)


def test_the_base_stays_frozen_and_the_loss_falls(
    plain: Any, rows: list[Row], params: Params
) -> None:
    learn = examples(plain, rows, params.train)
    settings = params.train.model_copy(update={"epochs": 3, "learning_rate": 2.0e-3})
    before = {path: np.array(value) for path, value in tree_flatten(plain.model.parameters())}
    start = validate(plain, learn, 2)
    run = train(plain, learn, learn, settings)
    lora.detach(plain.model)
    after = dict(tree_flatten(plain.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], np.array(after[path])) for path in before)
    assert run.metrics()["val_loss"] < start - 0.1
    assert run.metrics()["steps"] == 3 * 3
    assert [e["epoch"] for e in run.log if "val_loss" in e] == [1, 2, 3]


def test_a_loss_that_is_no_number_says_what_to_change(
    plain: Any, rows: list[Row], params: Params
) -> None:
    learn = examples(plain, rows[:2], params.train)
    settings = params.train.model_copy(update={"learning_rate": 1.0, "lora_alpha": 1e30})
    with pytest.raises(TrainingError, match=r"lower train.learning_rate"):
        train(plain, learn, learn, settings)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    plain: Any, rows: list[Row], params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    data.write_text("[]")
    found = []
    for i, seed in enumerate((1, 1, 2)):
        learn = examples(plain, rows, params.train)
        settings = params.train.model_copy(update={"epochs": 1, "seed": seed})
        run = train(plain, learn, learn[:1], settings)
        made = recipe(plain.source, plain.hash, rows, data, params.image, settings)
        save(plain, run, learn[0], made, tmp_path / str(i))
        lora.detach(plain.model)
        found.append({p.name: p.read_bytes() for p in (tmp_path / str(i)).iterdir()})
    assert set(found[0]) == {lora.CONFIG, lora.WEIGHTS, RECIPE, "training_log.jsonl"}
    assert found[0] == found[1]
    assert found[0][lora.WEIGHTS] != found[2][lora.WEIGHTS]


def test_the_recipe_knows_what_a_constant_would_say(rows: list[Row]) -> None:
    means = score_means(rows)
    scores = [row.answer().scores()[0] for row in rows]
    assert means["Composition"] == pytest.approx(np.mean(scores), abs=1e-3)
