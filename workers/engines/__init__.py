"""WebAssembly engines, a folder each, behind the same verbs: prime, load, run."""
