"""Images of loaded modules: taken once from a template process, mapped by every later instance of the module."""
