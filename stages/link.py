"""link: mondrian.db + source/ -> data/linked/<advisor>/, metrics/<advisor>/link.json"""

import argparse
from pathlib import Path

from mondrian.errors import run
from mondrian.files import write_json
from mondrian.link import link, summary
from mondrian.params import load_params
from mondrian.stored import Folders


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Link finished jobs to their photographs.")
    parser.add_argument("--db_path", type=Path, required=True, help="the application's database")
    parser.add_argument("--advisor", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--source_dir", type=Path, help="photographs; default: source/ beside the database"
    )
    parser.add_argument(
        "--analysis_dir", type=Path, help="default: analysis_md/ beside the database"
    )
    parser.add_argument("--html_dir", type=Path, help="default: analysis/ beside the database")
    parser.add_argument(
        "--metrics", type=Path, help="counts; default: link.json in the output folder"
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    params = load_params(args.params)
    beside = args.db_path.parent
    folders = Folders(
        source=args.source_dir or beside / "source",
        analysis=args.analysis_dir or beside / "analysis_md",
        html=args.html_dir or beside / "analysis",
    )
    bits = params.image.phash_distance
    manifest = link(args.db_path, args.advisor, folders, params.link, bits)
    content = manifest.model_dump(mode="json")
    write_json(args.output_dir / "training_data_manifest.json", content)
    write_json(args.metrics or args.output_dir / "link.json", manifest.counts())
    print(summary(manifest))


if __name__ == "__main__":
    run(main)
