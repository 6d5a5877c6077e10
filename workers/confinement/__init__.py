"""Everything a worker gives up before it looks at the guest's module: user, Landlock, seccomp."""
