"""Design of DNA sequences on data of one's own: what `simpo dna` does, step by step.

Each module takes the options of one command and returns the lines to be printed.
"""
