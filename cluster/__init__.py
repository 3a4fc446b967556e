"""Everything about many nodes: launching, faults, simulation, checking and measuring."""
