"""A project outside of jaxtag with a part of each kind of its own: it counts white squares.

Nothing in jaxtag knows it; its configuration names all parts as `package.module:Name`.
"""
