"""The table of what a job shows: each row is run natively and in a sandbox, and compared.

A row is data; what is seen of it is seen from outside, and the same way for both. Rows that
cannot be the same say why (`differs`), and fail when they have become the same.
"""
