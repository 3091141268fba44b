"""Design of DNA sequences with masked discrete diffusion and signed weights.

Tokens A, C, G, T are 0 to 3, in the order of the alphabet, and 4 is the mask.
"""
