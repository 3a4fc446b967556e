"""A parent to be killed: starts what its arguments say, prints the pid, and waits for ever.

`PARENT` among the arguments stands for its own pid. Descriptors are inherited: who holds the other
end of a lifeline is the test's choice.
"""

import os
import signal
import subprocess
import sys

if __name__ == "__main__":
    command = [str(os.getpid()) if word == "PARENT" else word for word in sys.argv[1:]]
    child = subprocess.Popen(command, close_fds=False)
    print(child.pid, flush=True)
    while True:
        signal.pause()
