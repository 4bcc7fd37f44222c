"""metrics.json: the few metrics of an advisor that `dvc metrics show` prints in one row."""

from typing import Any

from mondrian.core.params import GateParams
from mondrian.evaluation.gates import list_failed_gates
from mondrian.evaluation.headline import headline_verdict


def build_key_metrics(
    report: dict[str, Any], evaluation: dict[str, Any], thresholds: GateParams
) -> dict[str, Any]:
    """Return the content of metrics.json: flat, without times, equal in a rerun on a CPU.

    verdict       the headline: that of val or that of the cross-validation (headline.py)
    val           verdict on val; cv cross-validated verdict, - if there is none
    quality       quality index of the adapter: 100 the advisor's own critique, 0 chance
    mae           mean absolute error of its scores, points of 10; also of the base and of the
                  constant predictor
    valid         fraction of its answers that are schema-valid
    val_loss      loss of the saved weights on val, or on the photos set aside if those select the
                  epoch; None if the adapter has no training log
    n_train       photo groups in train; n_val photo groups it was evaluated on
    failed_gates  number of gates that do not hold; the verdict is none of them
    """
    adapter, base = evaluation["fine_tuned"], evaluation["base"]
    crossvalidation = evaluation.get("crossvalidation")
    return {
        "verdict": headline_verdict(evaluation),
        "val": evaluation["verdict"],
        "cv": crossvalidation["verdict"] if crossvalidation else "-",
        "quality": adapter["quality_index"],
        "quality_base": base["quality_index"],
        "mae": adapter["score_mae"],
        "mae_base": base["score_mae"],
        "mae_constant": evaluation["constant"]["score_mae"],
        "valid": adapter["format_compliance"],
        "val_loss": report["adapter"]["val_loss"],
        "n_train": len(report["adapter"]["recipe"]["train_photo_groups"]),
        "n_val": evaluation["photograph_groups"],
        "failed_gates": len(list_failed_gates(evaluation, thresholds)),
    }
