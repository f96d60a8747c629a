"""The pictures beside a study's own front: of methods compared, of several fronts, of the patches that survive."""
