"""The REST API: routers that decode, call and encode; problems as application/problem+json."""
