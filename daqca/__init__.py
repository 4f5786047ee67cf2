"""Data acquisition over EPICS Channel Access. This file only hands names on."""
