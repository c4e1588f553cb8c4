"""The compiled inner loops of Gibbs sampling. All of them give the spins of ``reference``, to the bit."""
