"""One thread for every test process, also in LAPACK, which knows nothing of torch's setting.

Read when numpy and torch are loaded, so it stands before all of them. Two workers with two threads
each wait for each other: on a busy machine an eigenproblem of size 150 took ten times as long.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
