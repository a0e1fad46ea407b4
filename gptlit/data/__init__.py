"""From files to batches. In the order of the data's way:

readers.py  how one file is unpacked, decoded and taken apart into rows
corpus.py   which files there are, and their documents in pieces
stream.py   token ids on disk, written as files and read as one row
shards.py   a corpus tokenized once into a cache, and its split
sampler.py  in which order samples are read; resumable
batch.py    what a step reads
text.py     running text for pretraining
pydocs.py   the same from the text that Python brings along
"""
