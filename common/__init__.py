"""What all five papers use; knows no paper."""

import os

# Threads that wait by spinning make a busy machine several times slower, and threads that sleep at once an idle one
# twice as slow: they spin for a few microseconds. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
