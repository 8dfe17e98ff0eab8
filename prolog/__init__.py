"""The Prolog hook: registers a job with this node's agent and returns in milliseconds."""
