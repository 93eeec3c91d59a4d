"""Erase a concept from a text-to-image diffusion model, then measure how much of it still shows through."""

import os

# One thread a process, unless the user says otherwise: jobs run side by side, and the same bits come from every engine that starts them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
