"""Tokenize text once, for many runs: python scripts/prepare_corpus.py --help."""

from gptlit.cli.prepare_corpus import main

if __name__ == "__main__":
    main()
