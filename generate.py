"""Write with a trained model: python generate.py --help."""

from gptlit.cli.entry import generate

if __name__ == "__main__":
    generate()
