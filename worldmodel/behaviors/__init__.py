"""Behaviours choose actions from model states: `init(B)`, `act(state, carry, mode) -> (action, carry)`."""
