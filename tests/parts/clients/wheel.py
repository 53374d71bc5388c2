"""Writes the smallest wheel that twine takes, into the folder where it runs."""

import zipfile

METADATA = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: demo\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

with zipfile.ZipFile("demo-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("demo.py", "")
    wheel.writestr("demo-1.0.dist-info/METADATA", METADATA)
    wheel.writestr("demo-1.0.dist-info/WHEEL", WHEEL)
    wheel.writestr("demo-1.0.dist-info/RECORD", "")
