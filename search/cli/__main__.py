"""`python -m search.cli` is `ztp`: this is how workers are started, whatever the PATH."""

from search.cli import main

if __name__ == "__main__":
    main()
