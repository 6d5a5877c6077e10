"""The wire: messages, dialects, and the gRPC and ttrpc servers. Turns requests into calls on ``interface``."""
