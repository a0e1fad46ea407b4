"""Train a model: python train.py --help."""

from gptlit.cli.train import main

if __name__ == "__main__":
    main()
