"""Write with a trained model: python generate.py --help."""

from gptlit.cli.generate import main

if __name__ == "__main__":
    main()
