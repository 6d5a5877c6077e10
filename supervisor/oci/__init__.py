"""OCI bundles and specs, and the root file system, streams and WASI request made from them."""
