"""Fetch published models ahead of time: python scripts/download.py gpt2-small."""

import sys

from gptlit.cli.arguments import printable
from gptlit.cli.entry import quiet_ctrl_c
from gptlit.cli.parser import Parser
from gptlit.errors import UserError
from gptlit.options import option_names, read_option
from gptlit.weights.fetch import fetch


def main() -> int:
    """The exit code: 2 if a model could not be fetched."""
    quiet_ctrl_c()
    sources = [name for name in option_names("weights") if "models" in read_option("weights", name)]
    parser = Parser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="gpt2-small and so on")
    parser.add_argument("--source", choices=sources, default="huggingface")
    parser.add_argument("--cache-dir", help="where to keep the files, as weights.cache_dir=...")
    parser.add_argument("--url", action="append", help="another mirror, as weights.urls=[...]")
    args = parser.parse_intermixed_args()
    source = read_option("weights", args.source) | {"cache_dir": args.cache_dir}
    if args.url and "urls" not in source:
        parser.error("--url is for openai and book; for huggingface set HF_ENDPOINT")
    if args.url:
        source["urls"] = args.url
    instead = "give it to the commands as weights.path=PATH or ckpt=PATH"
    try:
        for model in args.models:
            path = fetch(source, model, instead, to_read=False)
            size = sum(f.stat().st_size for f in (path.iterdir() if path.is_dir() else [path]))
            print(f"{model}: {path} ({size / 1e9:.2f} GB)")
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
