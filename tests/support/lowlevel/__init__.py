"""The low-level interface of PyEpics and ours, side by side: the same named calls, and what came of them."""
