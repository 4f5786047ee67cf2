"""The Channel Access client: pure Python and NumPy, without I/O at its core. Sockets and threads are in `context`."""
