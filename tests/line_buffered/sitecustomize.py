"""Python runs this first in every job that a test starts: a line of output is one write, so lines never interleave."""

import sys

sys.stdout.reconfigure(line_buffering=True)
