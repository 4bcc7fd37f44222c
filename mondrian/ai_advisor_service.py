"""`mondrian serve` under the path that launchd files name."""

import sys

from mondrian.cli.serve import main
from mondrian.core.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
