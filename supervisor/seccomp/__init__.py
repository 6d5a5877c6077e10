"""seccomp filters as finished BPF programs: the workers' own, the compiler's, and what an OCI spec adds."""
