"""WISE as a method: a side copy of one projection, learnt by keys or as published."""
