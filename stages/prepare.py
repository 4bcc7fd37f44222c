"""prepare: data/linked/<advisor>/ -> data/prepared/<advisor>/, metrics/<advisor>/prepare.json"""

import argparse
from pathlib import Path

from mondrian.errors import run
from mondrian.files import write_json
from mondrian.manifest import read_manifest
from mondrian.params import load_params
from mondrian.prepare import check_advisor, split, summary, write_split


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Split linked critiques and write chat rows.")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--advisor", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    persona = params.persona(args.advisor)
    manifest = read_manifest(args.manifest)
    check_advisor(manifest, args.advisor, args.manifest)
    result = split(manifest, params.prepare, params.image.phash_distance)
    write_split(result, args.advisor, persona, params.image, args.output_dir)
    write_json(args.metrics, result.counts())
    print(summary(result, args.advisor))


if __name__ == "__main__":
    run(main)
