"""The paper's criteria, one file each: C1 class, C2 attributes, C3 noise, C4 time, RA1-RA3, and what they depend on."""
