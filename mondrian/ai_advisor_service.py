"""python mondrian/ai_advisor_service.py --lora_path FOLDER --model_mode ab_test: critiques by HTTP.

The service is started by mondrian/cli/serve.py; launchd files name this path.
"""

from mondrian.cli.serve import main
from mondrian.core.errors import run

if __name__ == "__main__":
    run(main)
