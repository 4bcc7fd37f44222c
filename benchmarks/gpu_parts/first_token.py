"""Time to the first token of the service: first_token.py PARAMS ADVISORS PHOTOS

Runs the service with long prompts of ADVISORS advisors; a prompt is cold at an advisor's first
photo and cached at the others. Then the same photo is critiqued for two advisors.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.measurement import print_result
from benchmarks.serving import deployment
from benchmarks.serving.first_token import measure_first_tokens
from benchmarks.serving.servers import run_mondrian
from mondrian.core.params import load_params


def main() -> None:
    params = load_params(Path(sys.argv[1]))
    num_advisors, photos_per_advisor = map(int, sys.argv[2:])
    base = Path(params.base.source)
    personas = deployment.long_personas(base, num_advisors)
    photos = deployment.render_photos(num_advisors * (photos_per_advisor + 1))
    with tempfile.TemporaryDirectory() as folder:
        setup = deployment.write_deployment(
            Path(folder) / "service", base, params.image.max_pixels, personas
        )
        with run_mondrian(setup) as server:
            metrics = measure_first_tokens(
                server.url, list(personas), photos, photos_per_advisor, read_all=False
            )
    print_result(**{name: value for name, value in metrics.items() if name.startswith("ttft")})


if __name__ == "__main__":
    main()
