"""What is measured: one file a program; `peer.py` is what each of them promises."""
