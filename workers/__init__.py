"""The forkserver, the workers it forks, and what confines and runs a WebAssembly instance.

Everything here is paid for at every fork, so it imports little: no ``typing``, ``dataclasses``,
``socket``, ``signal`` or ``enum`` at run time, and nothing from outside the standard library.
"""
