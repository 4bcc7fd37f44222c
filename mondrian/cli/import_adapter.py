"""mondrian import-adapter: import a PEFT adapter that was trained elsewhere."""

from pathlib import Path

from mondrian.cli.parser import add_params, command_parser
from mondrian.core.params import load_params
from mondrian.training.import_peft import import_adapter
from mondrian.training.plan_report import PreparedFiles


def main(argv: list[str]) -> None:
    parser = command_parser(
        "import-adapter",
        "mondrian import-adapter out/checkpoint-111 \\\n"
        "  --train_data data/prepared/ansel/training_data_ansel_train.json \\\n"
        "  --val_data data/prepared/ansel/training_data_ansel_val.json \\\n"
        "  --output_dir models/Qwen3-VL-4B-lora-ansel",
        "It is checked against base and rows, and must change the base's logits.",
    )
    parser.add_argument("adapter", type=Path, help="folder with adapter_model.safetensors")
    parser.add_argument("--train_data", type=Path, required=True, help="rows it was trained on")
    parser.add_argument("--val_data", type=Path, required=True, help="val rows of the same split")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--base", help="base to use instead of base.source of params.yaml")
    parser.add_argument("--cache_dir", type=Path, default=Path(".cache"), help="vision features")
    add_params(parser)
    args = parser.parse_args(argv)
    params = load_params(args.params)
    if args.base:
        base = params.base.model_copy(update={"source": args.base})
        params = params.model_copy(update={"base": base})
    files = PreparedFiles(args.train_data, args.val_data)
    print(import_adapter(args.adapter, args.output_dir, files, params, args.cache_dir))
