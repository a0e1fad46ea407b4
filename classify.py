"""Say which class texts are of, with a trained classifier: python classify.py --help."""

from gptlit.cli.classify import main

if __name__ == "__main__":
    main()
