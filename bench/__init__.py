"""The benchmark suite: the same loads through this tunnel, through others, and through none."""
