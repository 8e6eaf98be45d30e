"""Fuzz one target, guided by coverage (atheris, of PyPI): `python -m tests.fuzz TARGET [OPTIONS]`.

Options are libFuzzer's:

    python -m tests.fuzz sni -runs=1000000          a million inputs, beginning with the corpus
    python -m tests.fuzz sni -max_total_time=60     for a minute

New inputs go to a folder that ends with the run; an input that fails is written to ./crash-..., and becomes a
file in corpus/TARGET once what it found is mended. Exit status: libFuzzer's.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CORPUS = Path(__file__).with_name("corpus")
OURS = ["certs", "tunnel_wire", "tunnel_server", "tunnel_agent", "tunnel_daemon"]


def main() -> int:
    """Does not return once libFuzzer runs."""
    try:
        import atheris  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("fuzz: atheris is not installed: .venv/bin/pip install atheris", file=sys.stderr)
        return 1
    # Guided by our code alone: with h2's and HPACK's too, a third as many inputs come to a link.
    with atheris.instrument_imports(include=OURS):
        from tests.fuzz.targets import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print(f"fuzz: name one of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    name, *options = sys.argv[1:]
    seeds = CORPUS / name
    seeds.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="fuzz-") as found:
        places = [] if any(not option.startswith("-") for option in options) else [found, str(seeds)]
        atheris.Setup([sys.argv[0], "-timeout=10", "-max_len=4096", *options, *places], TARGETS[name])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
