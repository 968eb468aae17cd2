"""How the embedded model is made and measured: corpus to weights, and the mechanism it is planted with.

Nothing imports this room; each module is a command.
"""
