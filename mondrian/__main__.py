"""`python -m mondrian NAME …`: the command `mondrian`, which is mondrian/cli/main.py."""

from mondrian.cli.main import entry

if __name__ == "__main__":
    entry()
