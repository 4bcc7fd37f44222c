from pathlib import Path

import pytest

from mondrian.cli.import_adapter import find_paths
from mondrian.core.errors import ParamsError
from mondrian.core.params import Params


def test_an_imported_adapter_goes_where_the_train_stage_writes(params: Params) -> None:
    advisor, paths = find_paths("okeefe", params)
    assert advisor == "okeefe"
    assert paths.output == Path("models/mondrian-tiny-lora-okeefe")
    assert paths.metrics == Path("metrics/okeefe/train.json")
    assert paths.val == Path("data/prepared/okeefe/training_data_okeefe_val.json")


def test_an_advisor_is_needed_if_there_are_several(params: Params) -> None:
    with pytest.raises(ParamsError, match="--advisor is missing; params.yaml has ansel, okeefe"):
        find_paths(None, params)
    with pytest.raises(ParamsError, match="--advisor is monet; params.yaml has ansel, okeefe"):
        find_paths("monet", params)
    single = params.model_copy(update={"advisors": ["okeefe"]})
    assert find_paths(None, single)[0] == "okeefe"
