"""Pretrained weights in and out: OpenAI's, Hugging Face's, the book's and our own.

fetch.py                published weights onto this machine. Imports no torch, nor does files.py
files.py                which files of weights a path means, and what kind each is
formats.py, names.py    what stands in them; the one table of names in every format
load.py, classes.py     into a model; into a classifier's head
lora.py, adapter.py     LoRA merged; checkpoints that leave out what they can get from elsewhere
export.py               out again, for others
card.py, hf_tokenizer.py what an export has besides: a model card; tokenizer files
"""
