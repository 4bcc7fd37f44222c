from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx.utils import tree_flatten

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE, SAVED_FILES, WEIGHTS_FILE
from mondrian.core.errors import AdapterError, DataError, TrainingError
from mondrian.core.params import Params, TrainParams
from mondrian.critique.rows import ChatRow
from mondrian.model import adapter, lora, vlm
from mondrian.model.lora import LoraConfig
from mondrian.model.provenance import build_recipe, score_medians
from mondrian.model.vision_cache import FeatureCache
from mondrian.training.checkpoint import Checkpoint
from mondrian.training.dataset import Example, build_examples
from mondrian.training.loss import Loss, StepSize
from mondrian.training.progress import TrainResult
from mondrian.training.run import evaluate_samples, save_adapter
from mondrian.training.trainer import Trainer, TrainerServices
from tests.conftest import ROOT
from tests.tolerances import by_type, to_numpy
from tests.training.interruption import Interrupted, InterruptingCheckpoint
from tests.training.unscored_rows import without_scores


@pytest.fixture
def cache(base_vlm: Any) -> FeatureCache:
    return FeatureCache(base_vlm, None, 0)


def run_trainer(
    cache: FeatureCache,
    rows: list[Example],
    val: list[Example],
    settings: TrainParams,
    services: TrainerServices | None = None,
) -> TrainResult:
    return Trainer(cache, rows, val, settings, services).run()


@pytest.fixture
def quick(params: Params) -> TrainParams:
    return params.train.model_copy(update={"epochs": 2, "learning_rate": 2.0e-3})


@pytest.mark.device
def test_the_base_stays_frozen_and_the_loss_falls(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: TrainParams
) -> None:
    examples = build_examples(rows, quick, cache)
    before = {path: to_numpy(value) for path, value in tree_flatten(base_vlm.model.parameters())}
    result = run_trainer(cache, examples, examples, quick)
    lora.detach(base_vlm.model)
    after = dict(tree_flatten(base_vlm.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[path], to_numpy(after[path])) for path in before)
    losses = [e["val_loss"] for e in result.epochs()]
    assert losses[1] < losses[0] < result.log[0]["loss"]
    assert result.metrics()["steps"] == 2 * 3
    assert [e["epoch"] for e in result.epochs()] == [1, 2]


@pytest.fixture(scope="module")
def plain_result(tiny: Any, rows: list[ChatRow], params: Params) -> TrainResult:
    """Two steps without dropout and without any setting for memory or speed."""
    lora.detach(tiny.model)
    cache, settings = FeatureCache(tiny, None, 0), without_dropout(params)
    examples = build_examples(rows[:4], settings, cache)
    return run_trainer(cache, examples, examples, settings)


def without_dropout(params: Params) -> TrainParams:
    return params.train.model_copy(update={"epochs": 1, "lora_dropout": 0.0, "batch_size": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"gradient_accumulation_steps": 2, "batch_size": 1},
        {"gradient_checkpointing": True},
        pytest.param({"compile": True}, marks=pytest.mark.slow),  # it runs g++
        {"loss_chunk_size": 17},
    ],
)
def test_settings_for_memory_and_speed_give_the_same_losses(
    plain_result: TrainResult,
    rows: list[ChatRow],
    cache: FeatureCache,
    params: Params,
    change: dict[str, Any],
) -> None:
    settings = without_dropout(params).model_copy(update=change)
    examples = build_examples(rows[:4], settings, cache)
    result = run_trainer(cache, examples, examples, settings)
    assert len(result.log) == len(plain_result.log) == 3
    for a, b in zip(result.log, plain_result.log, strict=True):
        assert a.get("loss", a.get("val_loss")) == pytest.approx(
            b.get("loss", b.get("val_loss")), abs=1e-4
        )


@pytest.mark.slow
def test_gradient_checkpointing_recomputes_the_same_dropout(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    losses = []
    for checkpointing in (False, True):
        settings = params.train.model_copy(
            update={"epochs": 1, "lora_dropout": 0.5, "gradient_checkpointing": checkpointing}
        )
        examples = build_examples(rows, settings, cache)
        result = run_trainer(cache, examples, examples, settings)
        losses.append([e["loss"] for e in result.log if "loss" in e])
        lora.detach(base_vlm.model)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"train_projector": True}, (4 * 7 + 2) * 2),
        pytest.param({"dora": True}, 4 * 7 * 3, marks=pytest.mark.device),
        *[
            pytest.param(change, count, marks=pytest.mark.slow)  # settings that do not interact
            for change, count in (
                ({"target_modules": "attention", "rslora": True}, 4 * 4 * 2),
                ({"target_modules": "mlp", "weight_decay": 0.1}, 4 * 3 * 2),
                ({"num_layers": 2, "lr_schedule": "linear"}, 2 * 7 * 2),
                ({"lora_plus_ratio": 4.0}, 56),
            )
        ],
    ],
)
def test_each_setting_lowers_the_loss_and_its_adapter_loads_again(
    base_vlm: Any,
    rows: list[ChatRow],
    quick: TrainParams,
    params: Params,
    tmp_path: Path,
    change: dict[str, Any],
    count: int,
) -> None:
    settings = quick.model_copy(update=change)
    cache = FeatureCache(base_vlm, None, 0, settings.train_projector)
    examples = build_examples(rows, settings, cache)
    result = run_trainer(cache, examples, examples, settings)
    assert len(result.weights) == count
    assert result.epochs()[-1]["val_loss"] < result.log[0]["loss"] - 0.05
    (tmp_path / "rows.json").write_text("[]")
    recipe = build_recipe(base_vlm.base_id, rows, tmp_path / "rows.json", params.image, settings)
    save_adapter(cache, result, examples[0], recipe, tmp_path / "adapter")
    loss = Loss(cache, _attached_layers(base_vlm.model), settings)
    losses = [np.array(loss.compute_eval_loss([e])) for e in examples]
    total = float(np.sum(losses)) / sum(sum(e.weights) for e in examples)
    expected = result.saved_epoch()["val_loss"]
    assert total == pytest.approx(expected, rel=by_type(1e-4, 1e-3, 1e-2))


def _attached_layers(model: Any) -> dict[str, Any]:
    targets = lora._iter_target_layers(model, None)
    layers = {path: getattr(parent, name) for path, parent, name in targets}
    return {path: layer for path, layer in layers.items() if isinstance(layer, lora.LoraLinear)}


@pytest.mark.device
def test_a_loss_of_nan_names_the_settings_to_lower(
    rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    examples = build_examples(rows[:2], params.train, cache)
    settings = params.train.model_copy(update={"learning_rate": 1.0, "lora_alpha": 1e30})
    with pytest.raises(TrainingError, match=r"lower train.learning_rate"):
        run_trainer(cache, examples, examples, settings)


@pytest.mark.slow
def test_a_growing_loss_stops_the_run_and_the_best_weights_are_kept(
    rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    settings = params.train.model_copy(
        update={"epochs": 30, "learning_rate": 0.3, "lr_schedule": "constant", "warmup_ratio": 0.5}
    )
    examples = build_examples(rows, settings, cache)
    result = run_trainer(cache, examples, examples, settings)
    assert result.halt_reason is not None
    assert "the loss grew from" in result.halt_reason
    assert result.saved_epoch()["val_loss"] == min(e["val_loss"] for e in result.epochs())


def test_early_stopping_ends_the_run_when_the_val_loss_stops_falling(
    rows: list[ChatRow], cache: FeatureCache, params: Params
) -> None:
    settings = params.train.model_copy(
        update={
            "epochs": 12,
            "early_stopping_patience": 2,
            "save_weights": "best",
            "learning_rate": 1.0e-2,
            "lr_schedule": "constant",
        }
    )
    examples = build_examples(rows, settings, cache)
    result = run_trainer(cache, examples[:2], examples[2:], settings)
    losses = [e["val_loss"] for e in result.epochs()]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12
    assert result.metrics()["epoch"] == best + 1
    assert result.metrics()["val_loss"] == min(losses)


@pytest.mark.slow
def test_val_samples_are_generated_after_each_epoch(
    rows: list[ChatRow], cache: FeatureCache, quick: TrainParams
) -> None:
    examples = build_examples(rows[:2], quick, cache)
    settings = quick.model_copy(update={"epochs": 1})
    services = TrainerServices(
        compute_val_metrics=lambda: evaluate_samples(cache, examples[:1], 1536)
    )
    entry = run_trainer(cache, examples, examples, settings, services).epochs()[0]
    assert 0 <= entry["val_compliance"] <= 1
    assert 0 <= entry["val_score_mae"] <= 10


@pytest.mark.slow
def test_the_score_error_of_samples_ignores_rows_without_scores(
    rows: list[ChatRow], cache: FeatureCache, quick: TrainParams
) -> None:
    scored, text_only = build_examples([rows[0], without_scores(rows[0])], quick, cache)
    metrics = evaluate_samples(cache, [scored, text_only], 1536)
    assert metrics["val_score_mae"] == evaluate_samples(cache, [scored], 1536)["val_score_mae"]
    assert "val_score_mae" not in evaluate_samples(cache, [text_only], 1536)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "rows.json"
    data.write_text("[]")
    folders = []
    for i, seed in enumerate((1, 1, 2)):
        settings = params.train.model_copy(update={"epochs": 1, "seed": seed})
        examples = build_examples(rows[:3], settings, cache)
        result = run_trainer(cache, examples, examples[:1], settings)
        recipe = build_recipe(base_vlm.base_id, rows, data, params.image, settings)
        save_adapter(cache, result, examples[0], recipe, tmp_path / str(i))
        lora.detach(base_vlm.model)
        folders.append({p.name: p.read_bytes() for p in (tmp_path / str(i)).iterdir()})
    assert (
        set(folders[0])
        == {CONFIG_FILE, WEIGHTS_FILE, RECIPE_FILE, "training_log.jsonl"}
        == set(SAVED_FILES)
    )
    assert folders[0] == folders[1]
    assert folders[0][WEIGHTS_FILE] != folders[2][WEIGHTS_FILE]


def test_no_constant_has_a_smaller_error_on_the_train_rows(rows: list[ChatRow]) -> None:
    medians = np.array(list(score_medians(rows).values()))
    scores = np.array([row.reference_critique().scores() for row in rows])
    constants = np.arange(0, 10.05, 0.1)[:, None, None]
    errors = np.abs(scores - constants).mean(axis=1)
    assert np.abs(scores - medians).mean(axis=0) == pytest.approx(errors.min(axis=0))


def test_rows_without_scores_have_no_part_in_the_score_medians(rows: list[ChatRow]) -> None:
    text_only = [without_scores(row) for row in rows]
    assert score_medians([*rows[:2], *text_only[2:]]) == score_medians(rows[:2])
    with pytest.raises(DataError, match="none of the 5 train rows has scores"):
        score_medians(text_only)


@pytest.mark.device
def test_the_loss_of_a_row_without_scores_is_that_of_its_other_tokens(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: TrainParams
) -> None:
    """Alone and in a batch, in validation and in training."""
    settings = quick.model_copy(update={"lora_dropout": 0.0})
    scored, text_only = build_examples([rows[1], without_scores(rows[0])], settings, cache)
    trainer = Trainer(cache, [scored, text_only], [scored, text_only], settings)

    def compute_loss(*examples: Example) -> float:
        return float(trainer.loss.compute_eval_loss(examples))

    every_token = replace(text_only, weights=[1.0] * len(text_only.weights))
    digits = replace(text_only, weights=[1.0 - weight for weight in text_only.weights])
    expected = compute_loss(every_token) - compute_loss(digits)
    assert compute_loss(digits) > 1
    tolerance = by_type(1e-4, 1e-3, 1e-2)
    assert compute_loss(text_only) == pytest.approx(expected, rel=tolerance)
    both = compute_loss(scored) + expected
    assert compute_loss(scored, text_only) == pytest.approx(both, rel=tolerance)
    sums, _ = trainer.loss.compute_loss_and_grad([scored, text_only], 1, StepSize(1.0, 2))
    assert float(sums[0]) == pytest.approx(both, rel=tolerance)


@pytest.mark.device
def test_a_run_resumed_at_any_step_ends_with_the_same_weights(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: TrainParams, tmp_path: Path
) -> None:
    settings = quick.model_copy(update={"batch_size": 1})
    examples = build_examples(rows[:2], settings, cache)
    expected = run_trainer(cache, examples, examples[:1], settings)
    assert expected.metrics()["steps"] == 4
    for saves in range(1, 4):
        lora.detach(base_vlm.model)
        checkpoint = Checkpoint(tmp_path, {})
        services = TrainerServices(InterruptingCheckpoint(tmp_path, {}, [saves]), 1)
        with pytest.raises(Interrupted):
            run_trainer(cache, examples, examples[:1], settings, services)
        lora.detach(base_vlm.model)
        services = TrainerServices(checkpoint, save_every=1)
        result = run_trainer(cache, examples, examples[:1], settings, services)
        assert result.log == expected.log
        assert result.weights.keys() == expected.weights.keys()
        for name, value in expected.weights.items():
            assert np.array_equal(np.array(value), np.array(result.weights[name])), (saves, name)
        checkpoint.remove()


@pytest.mark.slow
def test_a_run_ended_by_early_stopping_is_not_continued(
    base_vlm: Any, rows: list[ChatRow], cache: FeatureCache, quick: TrainParams, tmp_path: Path
) -> None:
    settings = quick.model_copy(
        update={"epochs": 4, "early_stopping_patience": 1, "learning_rate": 0.5}
    )
    examples = build_examples(rows, settings, cache)
    services = TrainerServices(Checkpoint(tmp_path, {}))
    first = run_trainer(cache, examples, examples[:2], settings, services)
    lora.detach(base_vlm.model)
    assert len(first.epochs()) < 4
    second = run_trainer(cache, examples, examples[:2], settings, services)
    assert second.log == first.log


def test_any_seed_of_params_yaml_seeds_dropout(
    rows: list[ChatRow], cache: FeatureCache, quick: TrainParams
) -> None:
    settings = quick.model_copy(update={"epochs": 1, "seed": 2**32 - 1})
    examples = build_examples(rows[:2], settings, cache)
    assert run_trainer(cache, examples, examples, settings).log


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    assert LoraConfig(16, 32).scale == 2
    assert LoraConfig(16, 32, rslora=True).scale == 8


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_trains_on_a_packed_base_without_changing_it(
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
    examples = build_examples(rows, quick, cache)
    result = run_trainer(cache, examples, examples, quick)
    losses = [e["val_loss"] for e in result.epochs()]
    assert losses[1] < losses[0] < result.log[0]["loss"]
    recipe = build_recipe(base.base_id, rows, ROOT / "params.yaml", params.image, quick)
    save_adapter(cache, result, examples[0], recipe, tmp_path / "adapter")
    lora.detach(base.model)
    assert base.model.language_model.model.layers[0].self_attn.q_proj is layer
    assert np.array_equal(np.array(layer.weight), before)
    with pytest.raises(AdapterError, match="was trained on .*packed"):
        adapter.load(vlm.load(tiny).model, vlm.load(tiny).hash, tmp_path / "adapter")
