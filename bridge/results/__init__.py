"""Bring what a NAS job wrote to results/<JOB_ID>/, bit by bit while it runs and wholly at the end.

Everything here runs in a short-lived process with the job's own uid, gid and groups and
imports the standard library and leaf modules only. It follows no link, opens nothing that is
not a regular file, and puts each file into place by draft, fsync, read-back and rename.
Plans come in and answers go out as plain dicts.
"""
