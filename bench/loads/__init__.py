"""What is measured: one file a load; `load.py` is what each of them promises."""
