"""Pretrained weights in and out: OpenAI's, Hugging Face's, the book's and our own.

fetch.py                downloads published weights. Imports no torch, nor does files.py
files.py                finds the files of weights that a path means, and the kind of each
formats.py, names.py    read what is in them; the one table of names in every format
hints.py                what they say about the model besides its tensors
load.py, classes.py     load weights into a model; into a classifier's head
lora.py, adapter.py     merge LoRA; load what a checkpoint of only an adapter leaves out
export.py               writes a model for other programs
card.py, hf_tokenizer.py what an export has besides weights: a model card; tokenizer files
"""
