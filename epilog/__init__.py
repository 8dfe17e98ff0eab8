"""The Epilog hook: returns when the job's sandbox is gone from this node."""
