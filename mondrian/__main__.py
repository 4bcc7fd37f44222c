"""python -m mondrian COMMAND …: the command `mondrian`."""

from mondrian.cli.main import entry

if __name__ == "__main__":
    entry()
