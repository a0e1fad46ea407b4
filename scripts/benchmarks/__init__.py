"""One file per kind of benchmark: its options, and its contestants as functions in a dict."""
