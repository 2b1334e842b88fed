"""The local stack: the same programs as in a cluster, as child processes of one machine."""
