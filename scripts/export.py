"""Hand a trained model to other programs: python scripts/export.py --help."""

from gptlit.cli.export import main

if __name__ == "__main__":
    main()
