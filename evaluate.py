"""Measure how well a model predicts a text: python evaluate.py --help."""

from gptlit.cli.evaluate import main

if __name__ == "__main__":
    main()
