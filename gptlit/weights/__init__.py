"""Pretrained weights in and out: downloads, and OpenAI's, Hugging Face's and the book's formats."""

from gptlit.weights.fetch import fetch
from gptlit.weights.files import find_files, kind
from gptlit.weights.formats import read_torch
from gptlit.weights.load import Found, inspect, load_weights

__all__ = ["Found", "fetch", "find_files", "inspect", "kind", "load_weights", "read_torch"]
