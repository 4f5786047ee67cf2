"""``python -m daqca.cli``: the ``daqca`` command where it is not on the path."""

from daqca.cli.app import main

if __name__ == "__main__":
    main()
