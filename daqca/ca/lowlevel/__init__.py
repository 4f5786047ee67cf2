"""The low-level interface of the manual's chapter 4, over our own client; `daqca.ca` hands its names on.

`session` knows the contexts of this process, `client` is one of them, `channel` one channel. The functions are in
modules by their subject, and talk to nothing but these.
"""
