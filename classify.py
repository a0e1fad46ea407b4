"""Say which class texts are of, with a trained classifier: python classify.py --help."""

from gptlit.cli.entry import classify

if __name__ == "__main__":
    classify()
