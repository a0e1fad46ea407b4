"""Pretrained weights in and out: downloads, and OpenAI's, Hugging Face's and the book's formats."""

from gptlit.weights.adapter import check_base, describe_base, load_base
from gptlit.weights.card import model_card
from gptlit.weights.classes import Classes, load_class_head
from gptlit.weights.export import export_huggingface, export_safetensors
from gptlit.weights.fetch import fetch
from gptlit.weights.files import find_files, kind
from gptlit.weights.formats import read_torch
from gptlit.weights.hf_tokenizer import tokenizer_files
from gptlit.weights.load import Found, inspect, load_weights

__all__ = [
    "Classes",
    "Found",
    "check_base",
    "describe_base",
    "export_huggingface",
    "export_safetensors",
    "fetch",
    "find_files",
    "inspect",
    "kind",
    "load_base",
    "load_class_head",
    "load_weights",
    "model_card",
    "read_torch",
    "tokenizer_files",
]
