"""Upgrades and rollbacks with instances running, to a next version made out of the tree, and to one of the past."""
