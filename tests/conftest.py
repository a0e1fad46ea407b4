"""For all tests."""

import signal

# A shell starts background jobs with Ctrl-C ignored, and so would be all commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
