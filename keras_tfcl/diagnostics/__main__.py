"""`python -m keras_tfcl.diagnostics MODEL DATA -o report.html`"""

from keras_tfcl.diagnostics.command import main

if __name__ == "__main__":
    raise SystemExit(main())
