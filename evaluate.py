"""Measure how well a model predicts a text: python evaluate.py --help."""

from gptlit.cli.entry import evaluate

if __name__ == "__main__":
    evaluate()
