"""The Kubernetes mode: what the server learns from a cluster, and writes there.

Nothing else imports `kubernetes`; what a standalone server reads of it (`settings`) does not either.
"""
