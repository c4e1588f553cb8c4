"""From a plan to reads, and from reads to states of the machine."""
