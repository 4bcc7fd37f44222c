"""`mondrian serve` under the path that launchd files name."""

import sys

from mondrian.cli.serve import main
from mondrian.core.errors import run

if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
