"""The things that exist: sandboxes, containers, processes, and the registry that finds them."""
