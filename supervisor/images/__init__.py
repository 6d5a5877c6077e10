"""Image archives and the programs in them."""
