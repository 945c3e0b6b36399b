"""Draws every n-th scene of a split, as a process of its own: `python -m compress.examples.field_scenes.worker`.

One line of JSON on standard output an image: null, or the arguments of the OSError that stopped it.
"""

from __future__ import annotations

import json
import os
import sys

import cv2

from compress.examples.field_scenes.image_file import write_image


def main(folder: str, split: str, count: str, imgsz: str, first: str, step: str) -> None:
    cv2.setNumThreads(1)  # the processes share the cores
    for index in range(int(first), int(count), int(step)):
        answer = None
        try:
            write_image(index, folder, split, int(imgsz))
        except OSError as error:
            answer = [*error.args[:2], *([error.filename] if error.filename else [])]
        os.write(sys.stdout.fileno(), f"{json.dumps(answer)}\n".encode())  # whole lines: the processes share a pipe
        if answer:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
