"""The command line: a thin client of the REST API and the local stack."""
