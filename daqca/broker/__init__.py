"""The broker between workers and clients, and the messages it carries. Nothing is handed on here: see its modules."""
