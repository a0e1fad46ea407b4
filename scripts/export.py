"""Hand a trained model to other programs: python scripts/export.py --help."""

from gptlit.cli.entry import export

if __name__ == "__main__":
    export()
