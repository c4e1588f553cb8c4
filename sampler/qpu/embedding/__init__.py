"""Where a machine lies on a chip, and the h and J programmed there."""
