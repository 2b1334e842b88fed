"""A small kubelet that runs pods as processes of this machine, each with its own network, mounts and process tree.

It stands in for the nodes of a cluster, as the control plane is real and the images are not there: instead of an image
a container sees this machine's /usr, this project and its Python environment, read-only. Needs root and iproute2.
"""
