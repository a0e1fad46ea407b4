"""From files to batches. In the order of the data's way:

readers.py              how one file is found, unpacked and decoded
rows.py, tables.py      the rows of a table in a stream; a table whole
tables_out.py           rows written back with more columns
corpus.py               which text files there are, and their documents in pieces
jobs.py                 the pieces with their split, from any place on
encoder.py              pieces to token ids, on all cores
stream.py               token ids on disk, written as files and read as one row
journal.py              how far that has come, for a run that goes on
shards.py               what is on disk in the end
tokenizing.py           a corpus tokenized once into a cache
prepared.py             the same into a folder of the user's, ahead of time
bytebar.py              how far a long read has come
sampler.py              in which order samples are read; resumable
buckets.py              the same for samples of unequal length
batch.py                what a step reads
module.py               what all data modules share
text.py, pydocs.py      running text for pretraining; that which Python brings along
labelled*.py            texts with classes, out of tables: split, saved, batched
spam.py, spam_sample.py the SMS Spam Collection; made-up messages
instruction*.py         instructions and their responses
"""
