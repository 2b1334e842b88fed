"""The figures that the README quotes, measured on this machine: `make bench`, or `python -m tests.bench [NAME ...]`."""
