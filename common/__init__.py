"""What all five papers use; knows no paper."""

import os

# Threads that wait by spinning make a busy machine several times slower; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
