"""`python -m analysis.benchmark`."""

from analysis.benchmark import main

if __name__ == "__main__":
    main()
