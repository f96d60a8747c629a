"""Studies that ship with the product: data, weights and the scripts that made them."""
