"""Tokenize text once, for many runs: python scripts/prepare_corpus.py --help."""

from gptlit.cli.entry import prepare_corpus

if __name__ == "__main__":
    prepare_corpus()
