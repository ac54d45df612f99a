"""dataset -> adapter: a recipe, a base and a folder of examples go in, a folder with an adapter and its measurements comes out.

Knows nothing of the catalogue or of HTTP. Importing the package, its recipe, bases, preflight and spec loads no torch; training runs in a process of its own.
"""
