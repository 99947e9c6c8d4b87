"""Behaviours choose actions from model states: `init(B)`, `act(state, carry, mode) -> (action,
carry)`.

`plans` says whether they dream to choose, which is most of the work then.
"""
