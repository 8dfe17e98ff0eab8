"""The daemon on each node that owns its sandboxes; keepers and publications are its children."""
