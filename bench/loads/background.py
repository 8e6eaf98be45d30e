"""A bulk stream beside another load: `python -m bench.loads.background HOST PORT`, until its stdin ends.

Says "flows" once bytes come, and at last their MB/s.
"""

import sys
import threading

from bench.loads.client import connect, receive

MOST_S = 60.0


def main() -> None:
    """Receive from a target that sends all it can."""
    until = threading.Thread(target=sys.stdin.read, daemon=True)
    until.start()
    total, took = 0, 0.0
    with connect((sys.argv[1], int(sys.argv[2])), b"d") as sock:
        receive([sock], 0.1)
        print("flows", flush=True)
        while until.is_alive() and took < MOST_S:
            (size,), seconds = receive([sock], 0.1)
            total += size
            took += seconds
    print(total / took / 1e6 if took else 0.0, flush=True)


if __name__ == "__main__":
    main()
