"""The paper's criteria, one module each: C1 class, C2 attributes, C3 noise, C4 time, RA1-RA3, and their sensitivity."""
