"""Saved world models as environments of Gymnasium: one episode at a time, or a batch of them.

They stand on a saved run and its replay and need no simulator. Users and examples import them from
`worldmodel`; no other room imports this one.
"""
