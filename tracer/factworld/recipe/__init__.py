"""Making and measuring the embedded model: corpus to weights, and the mechanism it is planted with.

No other package imports this one; each module is a command.
"""
