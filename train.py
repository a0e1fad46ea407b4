"""Train a model: python train.py --help."""

from gptlit.cli.entry import train

if __name__ == "__main__":
    train()
