"""Take job files from the NAS to sbatch, exactly once each.

The parent process never touches the NAS and never waits: scans, lookups and submissions
are short-lived children, and what is done with a user's file is done as that user.
"""
