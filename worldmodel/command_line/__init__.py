"""What a user calls: train and eval, from the checkout and from an installed package.

Nothing in worldmodel imports this room. It alone imports the environments and gives them to the
programs.
"""
