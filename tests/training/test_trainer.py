from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mondrian.core.adapter_folder import CONFIG, RECIPE, SAVED_FILES, WEIGHTS
from mondrian.core.errors import AdapterError, TrainingError
from mondrian.core.params import Params, Train
from mondrian.critique.rows import ChatRow
from mondrian.model import adapter, lora, vlm
from mondrian.model.lora_config import LoraConfig
from mondrian.model.provenance import build_recipe, score_means
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.checkpoint import Checkpoint
from mondrian.training.dataset import build_examples
from mondrian.training.loss import Loss
from mondrian.training.save_adapter import save_adapter
from mondrian.training.trainer import TrainerServices, train
from mondrian.training.val_generation import evaluate_samples
from tests.conftest import ROOT


@pytest.fixture
def cache(base_vlm: Any) -> FeatureCache:
    return FeatureCache(base_vlm, None, 0)


@pytest.fixture
def quick(params: Params) -> Train:
    return params.train.model_copy(update={"epochs": 2, "learning_rate": 2.0e-3})


def test_a_score_counts_more_than_a_word(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    heavy = params.train.model_copy(update={"score_weight": 5.0})
    example = build_examples(base_vlm, rows[:1], heavy, cache)[0]
    answer = zip(example.ids[example.start :], example.weights, strict=True)
    digits = [
        base_vlm.processor.tokenizer.decode([token]) for token, weight in answer if weight == 5
    ]
    critique = rows[0].reference_critique()
    told = "".join(f"{score:g}" for score in (*critique.scores(), critique.overall_score))
    assert "".join(digits) == told


def test_the_answer_ends_with_the_end_of_the_turn(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    example = build_examples(base_vlm, rows[:1], params.train, cache)[0]
    tokenizer = base_vlm.processor.tokenizer
    assert example.ids[-1] == tokenizer.eos_token_id
    answer = tokenizer.decode(example.ids[example.start : -1])
    assert answer == rows[0].messages[-1]["content"]
    assert tokenizer.decode(example.ids[: example.start]).endswith("assistant\n")


def test_a_row_that_is_too_long_is_named(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    short = params.train.model_copy(update={"max_seq_length": 100})
    with pytest.raises(TrainingError, match=r"2 rows have more .*ansel/0 .*, ansel/1"):
        build_examples(base_vlm, rows[:2], short, cache)


def test_the_base_stays_frozen_and_the_loss_falls(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: Train
) -> None:
    learn = build_examples(base_vlm, rows, quick, cache)
    before = {path: np.array(value) for path, value in tree_flatten(base_vlm.model.parameters())}
    run = train(cache, learn, learn, quick)
    lora.detach(base_vlm.model)
    after = dict(tree_flatten(base_vlm.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], np.array(after[path])) for path in before)
    losses = [e["val_loss"] for e in run.epochs()]
    assert losses[1] < losses[0] < run.log[0]["loss"]
    assert run.metrics(quick)["steps"] == 2 * 3
    assert [e["epoch"] for e in run.epochs()] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_accumulation_steps": 2, "batch_size": 1},
        {"gradient_checkpointing": True},
        {"compile": True},
        {"loss_chunk_size": 17},
    ],
)
def test_ways_to_save_memory_or_time_learn_the_same(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params, change: dict[str, Any]
) -> None:
    one = params.train.model_copy(update={"epochs": 1, "lora_dropout": 0.0, "batch_size": 2})
    learn = build_examples(base_vlm, rows[:4], one, cache)
    wanted = train(cache, learn, learn, one)
    lora.detach(base_vlm.model)
    ours = train(cache, learn, learn, one.model_copy(update=change))
    assert len(ours.log) == len(wanted.log) == 3
    for a, b in zip(ours.log, wanted.log, strict=True):
        assert a.get("loss", a.get("val_loss")) == pytest.approx(
            b.get("loss", b.get("val_loss")), abs=1e-4
        )


def test_dropout_is_the_same_where_layers_are_computed_again(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    losses = []
    for again in (False, True):
        some = params.train.model_copy(
            update={"epochs": 1, "lora_dropout": 0.5, "gradient_checkpointing": again}
        )
        learn = build_examples(base_vlm, rows, some, cache)
        losses.append([e["loss"] for e in train(cache, learn, learn, some).log if "loss" in e])
        lora.detach(base_vlm.model)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"target_modules": "attention"}, 4 * 4 * 2),
        ({"target_modules": "mlp"}, 4 * 3 * 2),
        ({"num_layers": 2}, 2 * 7 * 2),
        ({"train_projector": True}, (4 * 7 + 2) * 2),
        ({"dora": True}, 4 * 7 * 3),
        ({"rslora": True}, 4 * 7 * 2),
        ({"lora_plus_ratio": 4.0}, 56),
        ({"weight_decay": 0.1}, 56),
        ({"lr_schedule": "linear"}, 56),
    ],
)
def test_each_setting_learns_and_its_adapter_loads_again(
    base_vlm: Any,
    rows: list[ChatRow],
    quick: Train,
    params: Params,
    tmp_path: Path,
    change: dict[str, Any],
    count: int,
) -> None:
    settings = quick.model_copy(update=change)
    cache = FeatureCache(base_vlm, None, 0, settings.train_projector)
    learn = build_examples(base_vlm, rows, settings, cache)
    run = train(cache, learn, learn, settings)
    assert len(run.weights) == count
    assert run.epochs()[-1]["val_loss"] < run.log[0]["loss"] - 0.05
    (tmp_path / "rows.json").write_text("[]")
    made = build_recipe(
        base_vlm.source, base_vlm.hash, rows, tmp_path / "rows.json", params.image, settings
    )
    save_adapter(cache, run, settings, learn[0], made, tmp_path / "adapter")
    layers = {path: layer for path, layer in _attached(base_vlm.model)}
    again = Loss(cache, layers, settings)
    losses = [np.array(again.compute_eval_loss([e])) for e in learn]
    total = float(np.sum(losses)) / sum(sum(e.weights) for e in learn)
    assert total == pytest.approx(run.select_epoch(settings)["val_loss"], rel=1e-4)


def _attached(model: Any) -> list[tuple[str, Any]]:
    every = lora._iter_target_layers(model, None)
    return [
        (path, getattr(parent, name))
        for path, parent, name in every
        if isinstance(getattr(parent, name), lora.LoraLinear)
    ]


def test_a_loss_that_is_no_number_says_what_to_change(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    learn = build_examples(base_vlm, rows[:2], params.train, cache)
    settings = params.train.model_copy(update={"learning_rate": 1.0, "lora_alpha": 1e30})
    with pytest.raises(TrainingError, match=r"lower train.learning_rate"):
        train(cache, learn, learn, settings)


def test_a_loss_that_grows_stops_and_the_best_weights_are_kept(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    wild = params.train.model_copy(
        update={"epochs": 30, "learning_rate": 0.3, "lr_schedule": "constant", "warmup_ratio": 0.5}
    )
    learn = build_examples(base_vlm, rows, wild, cache)
    run = train(cache, learn, learn, wild)
    assert run.halt_reason is not None
    assert "the loss grew from" in run.halt_reason
    assert run.select_epoch(wild)["val_loss"] == min(e["val_loss"] for e in run.epochs())


def test_it_stops_when_the_val_loss_no_longer_falls(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    settings = params.train.model_copy(
        update={
            "epochs": 12,
            "early_stopping_patience": 2,
            "learning_rate": 1.0e-2,
            "lr_schedule": "constant",
        }
    )
    learn = build_examples(base_vlm, rows, settings, cache)
    run = train(cache, learn[:2], learn[2:], settings)
    losses = [e["val_loss"] for e in run.epochs()]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12
    assert run.metrics(settings)["epoch"] == best + 1
    assert run.metrics(settings)["val_loss"] == min(losses)


def test_a_few_photographs_are_critiqued_after_each_epoch(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: Train
) -> None:
    learn = build_examples(base_vlm, rows[:2], quick, cache)
    once = quick.model_copy(update={"epochs": 1})
    means = TrainerServices(compute_val_metrics=lambda: evaluate_samples(cache, learn, 2, 1536))
    entry = train(cache, learn, learn, once, means).epochs()[0]
    assert 0 <= entry["val_compliance"] <= 1
    assert 0 <= entry["val_score_mae"] <= 10


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    data.write_text("[]")
    found = []
    for i, seed in enumerate((1, 1, 2)):
        settings = params.train.model_copy(update={"epochs": 1, "seed": seed})
        learn = build_examples(base_vlm, rows, settings, cache)
        run = train(cache, learn, learn[:1], settings)
        made = build_recipe(base_vlm.source, base_vlm.hash, rows, data, params.image, settings)
        save_adapter(cache, run, settings, learn[0], made, tmp_path / str(i))
        lora.detach(base_vlm.model)
        found.append({p.name: p.read_bytes() for p in (tmp_path / str(i)).iterdir()})
    assert set(found[0]) == {CONFIG, WEIGHTS, RECIPE, "training_log.jsonl"} == set(SAVED_FILES)
    assert found[0] == found[1]
    assert found[0][WEIGHTS] != found[2][WEIGHTS]


def test_the_recipe_knows_what_a_constant_would_say(rows: list[ChatRow]) -> None:
    means = score_means(rows)
    scores = [row.reference_critique().scores()[0] for row in rows]
    assert means["Composition"] == pytest.approx(np.mean(scores), abs=1e-3)


def test_a_run_taken_up_anywhere_ends_with_the_same_weights(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: Train, tmp_path: Path
) -> None:
    learn = build_examples(base_vlm, rows, quick, cache)
    whole = train(cache, learn, learn[:2], quick)
    for stop in range(1, 6):
        lora.detach(base_vlm.model)
        kept = Checkpoint(tmp_path / "run.safetensors", {})
        with pytest.raises(Interrupted):
            train(
                cache,
                learn,
                learn[:2],
                quick,
                TrainerServices(Cut(kept.path, {}, stop), save_every=1),
            )
        lora.detach(base_vlm.model)
        run = train(cache, learn, learn[:2], quick, TrainerServices(kept, save_every=1))
        assert run.log == whole.log
        assert run.weights.keys() == whole.weights.keys()
        for name, value in whole.weights.items():
            assert np.array_equal(np.array(value), np.array(run.weights[name])), (stop, name)
        kept.remove()


def test_a_run_that_patience_ended_is_not_taken_further(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: Train, tmp_path: Path
) -> None:
    impatient = quick.model_copy(
        update={"epochs": 4, "early_stopping_patience": 1, "learning_rate": 0.5}
    )
    learn = build_examples(base_vlm, rows, impatient, cache)
    kept = Checkpoint(tmp_path / "run.safetensors", {})
    whole = train(cache, learn, learn[:2], impatient, TrainerServices(kept))
    lora.detach(base_vlm.model)
    assert len(whole.epochs()) < 4
    again = train(cache, learn, learn[:2], impatient, TrainerServices(kept))
    assert again.log == whole.log


def test_any_seed_of_params_yaml_draws_dropout(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: Train
) -> None:
    some = quick.model_copy(update={"epochs": 1, "seed": 2**32 - 1})
    learn = build_examples(base_vlm, rows[:2], some, cache)
    assert train(cache, learn, learn, some).log


class Interrupted(Exception):
    pass


class Cut(Checkpoint):
    """Interrupts the run after so many saves."""

    def __init__(self, path: Path, identity: dict[str, Any], saves: int) -> None:
        super().__init__(path, identity)
        object.__setattr__(self, "left", [saves])

    def save(self, state: Any) -> None:
        super().save(state)
        left: Any = getattr(self, "left")  # noqa: B009
        left[0] -= 1
        if not left[0]:
            raise Interrupted


def test_a_setting_of_the_adapter_scales_as_it_says() -> None:
    assert LoraConfig(16, 32).scale == 2
    assert LoraConfig(16, 32, rslora=True).scale == 8


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_learns_on_a_packed_base_and_stays_beside_it(
    rows: list[ChatRow], params: Params, tmp_path: Path, bits: int
) -> None:
    from mlx_vlm.convert import convert

    tiny, packed = "models/base/mondrian-tiny", str(tmp_path / "packed")
    convert(tiny, packed, quantize=True, q_bits=bits)
    base = vlm.load(packed)
    layer = base.model.language_model.model.layers[0].self_attn.q_proj
    before = np.array(layer.weight)
    quick = params.train.model_copy(update={"epochs": 2})
    cache = FeatureCache(base, None, 0)
    learn = build_examples(base, rows, quick, cache)
    run = train(cache, learn, learn, quick)
    told = [e["val_loss"] for e in run.epochs()]
    assert told[1] < told[0] < run.log[0]["loss"]
    made = build_recipe(base.source, base.hash, rows, ROOT / "params.yaml", params.image, quick)
    save_adapter(cache, run, quick, learn[0], made, tmp_path / "adapter")
    lora.detach(base.model)
    assert base.model.language_model.model.layers[0].self_attn.q_proj is layer
    assert np.array_equal(np.array(layer.weight), before)
    with pytest.raises(AdapterError, match="was trained on .*packed"):
        adapter.load(vlm.load(tiny).model, vlm.load(tiny).hash, tmp_path / "adapter")
