"""From files to batches, in the order in which the data pass through:

readers.py              how one file is found, unpacked and decoded
rows.py, tables.py      the rows of a table as a stream; a whole table
tables_out.py           rows written back with more columns
corpus.py               which text files there are, and their documents in pieces
jobs.py                 the pieces with their splits, starting anywhere
encoder.py              pieces to token ids, on all cores
stream.py               token ids on disk, written to several files, read as one sequence
journal.py              how far tokenizing has come, so that it can resume
shards.py               the finished corpus on disk
tokenizing.py           a corpus tokenized once into a cache
prepared.py             a corpus tokenized ahead of time into a folder of the user's
bytebar.py              the progress of a long read
sampler.py              the order in which samples are read; resumable
buckets.py              the same for samples of unequal length
batch.py                the batches that a step reads
module.py               what all data modules share
text.py, pydocs.py      running text for pretraining; the text that comes with Python
labelled*.py            texts with classes, from tables: split, saved, batched
spam.py, spam_sample.py the SMS Spam Collection; made-up messages
instruction*.py         instructions and their responses
"""
