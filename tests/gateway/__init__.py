"""The gateway over real sockets, before a mesh in memory."""
