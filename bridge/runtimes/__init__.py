"""The outside worlds that hold sandboxes: one module per runtime, one interface (sandbox.py)."""
