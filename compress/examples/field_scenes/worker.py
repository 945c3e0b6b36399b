"""Worker process that draws every n-th scene of a split: `python -m compress.examples.field_scenes.worker`.

It writes one line of JSON per image to standard output: null, or the arguments of the OSError that stopped it.
"""

from __future__ import annotations

import json
import os
import sys

import cv2

from compress.examples.field_scenes.image_file import WRITERS


def main(folder: str, split: str, count: str, imgsz: str, first: str, step: str, what: str = "image") -> None:
    cv2.setNumThreads(1)  # the processes share the cores
    for index in range(int(first), int(count), int(step)):
        error_args = None
        try:
            WRITERS[what](index, folder, split, int(imgsz))
        except OSError as error:
            error_args = [*error.args[:2], *([error.filename] if error.filename else [])]
        os.write(sys.stdout.fileno(), f"{json.dumps(error_args)}\n".encode())  # one write per line: the pipe is shared
        if error_args:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
