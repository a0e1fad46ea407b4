"""From files to batches. In the order of the data's way:

readers.py, tables.py   how one file is unpacked, decoded and taken apart into rows
tables_out.py           rows written back with more columns
corpus.py               which text files there are, and their documents in pieces
stream.py               token ids on disk, written as files and read as one row
shards.py               a corpus tokenized once into a cache, and its split
sampler.py              in which order samples are read; resumable
batch.py                what a step reads
module.py               what all data modules share
text.py, pydocs.py      running text for pretraining; that which Python brings along
labelled*.py            texts with classes, out of tables: split, saved, batched
spam.py, spam_sample.py the SMS Spam Collection; made-up messages
instruction*.py         instructions and their responses
"""
