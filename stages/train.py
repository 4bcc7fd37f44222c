"""train: data/prepared/<advisor>/ -> models/<base>-lora-<advisor>/, metrics/<advisor>/train.json"""

import argparse
from pathlib import Path

from mondrian import vlm
from mondrian.errors import run
from mondrian.files import write_json, write_text
from mondrian.params import load_params
from mondrian.recipe import recipe
from mondrian.rows import read_rows
from mondrian.train import examples, save, train


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a LoRA adapter on a frozen base.")
    parser.add_argument("--train_data", type=Path, required=True)
    parser.add_argument("--val_data", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="instead of train.epochs of params.yaml")
    parser.add_argument("--base", help="instead of base.source of params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    settings = params.train.with_epochs(args.epochs)
    rows, val_rows = read_rows(args.train_data), read_rows(args.val_data)
    base = vlm.load(args.base or params.base.source)
    learn = examples(base, rows, settings)
    val = examples(base, val_rows, settings)
    found = train(base, learn, val, settings)
    made = recipe(base.source, base.hash, rows, args.train_data, params.image, settings)
    save(base, found, val[0], made, args.output_dir)
    write_text(args.metrics.parent / "train_loss.csv", found.curve("train_loss"))
    write_text(args.metrics.parent / "val_loss.csv", found.curve("val_loss"))
    write_json(args.metrics, found.metrics())
    print(found.summary(args.output_dir))


if __name__ == "__main__":
    run(main)
