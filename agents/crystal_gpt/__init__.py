"""crystal_gpt: crystals written site by site by a causal transformer, P(L, A, X) as an exact density.

After crystal_gpt and CrystalFormer (Cao et al., arXiv 2403.15734).
"""
